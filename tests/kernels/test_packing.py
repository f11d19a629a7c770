"""Packed matrices against torch's own layout operations."""

from __future__ import annotations

import pytest
import torch
from dynamicvis_kernels._packing import pack_rows
from torch.nn import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_packed_matrices_of_all_shapes_at_once(dtype: torch.dtype) -> None:
    """Whole and broken blocks, a single row and column, rows of a wider matrix, columns that are not dense."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((32, 4), (37, 5), (1, 1), (3, 70))
    matrices = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]
    matrices += [torch.randn(20, 9, generator=generator, dtype=dtype)[:, 2:6]]
    matrices += [torch.randn(6, 18, generator=generator, dtype=dtype).t()]
    lanes = 64 // dtype.itemsize
    for matrix, packed in zip(matrices, pack_rows(*matrices), strict=True):
        padded = F.pad(matrix, (0, 0, 0, -len(matrix) % lanes))
        assert torch.equal(packed, padded.unflatten(0, (-1, lanes)).transpose(1, 2))
