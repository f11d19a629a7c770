"""Resampled maps added to tokens, against torch's interpolation."""

from __future__ import annotations

import pytest
import torch
from dynamicvis_kernels.resampling import add_resampled_
from torch.nn import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("new", [(7, 12), (14, 5), (3, 1), (7, 5)], ids=str)
@pytest.mark.parametrize("old", [(7, 5), (2, 9), (1, 1)], ids=str)
def test_added_map_equals_interpolation(old: tuple[int, int], new: tuple[int, int], dtype: torch.dtype) -> None:
    """Larger, smaller and same grids, maps smaller than a bicubic's reach, several images, slices of wider rows."""
    generator = torch.Generator().manual_seed(sum(old) + sum(new))
    channels = 21
    maps = torch.randn(1, *old, channels, generator=generator, dtype=dtype)
    wide = torch.randn(2, new[0] * new[1], channels + 6, generator=generator, dtype=dtype)
    tokens = wide[..., 3 : 3 + channels]
    resampled = F.interpolate(maps.permute(0, 3, 1, 2), size=new, mode="bicubic", align_corners=False)
    expected = tokens + resampled.flatten(2).transpose(1, 2)
    outside = wide.clone()
    outside[..., 3 : 3 + channels] = 0

    def shares(axis: int) -> torch.Tensor:
        unit = torch.eye(old[axis], dtype=dtype)[None, None]
        return F.interpolate(unit, size=(new[axis], old[axis]), mode="bicubic", align_corners=False)[0, 0]

    assert add_resampled_(tokens, maps, shares(0), shares(1)) is tokens
    # Sixteen products of values around 1, with weights below 1, in another order.
    bound = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(tokens, expected, rtol=bound, atol=bound)
    wide[..., 3 : 3 + channels] = 0
    assert torch.equal(wide, outside)


def test_added_map_may_come_from_any_neighbours() -> None:
    """Rows with many shares, with one at the edge, and with none."""
    generator = torch.Generator().manual_seed(0)
    maps, tokens = torch.randn(1, 6, 3, 5, generator=generator), torch.zeros(1, 12, 5)
    vertical = torch.zeros(4, 6)
    vertical[0, 1:5], vertical[1, 5], vertical[3, 0] = torch.tensor([0.5, 0.0, -2.0, 1.0]), 3.0, 1.0
    horizontal = torch.eye(3)
    expected = torch.einsum("hr,wc,brcd->bhwd", vertical, horizontal, maps).flatten(1, 2)
    torch.testing.assert_close(add_resampled_(tokens, maps, vertical, horizontal), expected, rtol=1e-6, atol=1e-6)
