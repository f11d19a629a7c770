"""Matrices laid out for the CPU's kernels: the elements of neighbouring rows side by side, as a vector takes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._parallel import HEADER, Variant, load_parameter, run, work
from dynamicvis_kernels._simd import BYTES, lane_count, load_scalar, splat, store, store_scalar

_MATRIX = 5  # parameters that describe one matrix
_FROM, _STRIDE, _NUMBER, _COLUMNS, _TO = range(HEADER, HEADER + _MATRIX)


@njit(error_model="numpy")
def _pack_task(p, task, slot, like):
    lanes = lane_count(like)
    scalar, zero = BYTES // lanes, splat(0.0, like)
    matrix, block = p, task
    blocks = (load_parameter(matrix, _NUMBER) + lanes - 1) // lanes
    while block >= blocks:
        matrix, block = matrix + _MATRIX * 8, block - blocks
        blocks = (load_parameter(matrix, _NUMBER) + lanes - 1) // lanes
    columns, stride = load_parameter(matrix, _COLUMNS), load_parameter(matrix, _STRIDE)
    rows = min(lanes, load_parameter(matrix, _NUMBER) - block * lanes)
    source = load_parameter(matrix, _FROM) + block * lanes * stride
    target = load_parameter(matrix, _TO) + block * columns * BYTES
    for _ in range(columns):
        if rows < lanes:
            store(target, lanes, zero)
        for row in range(rows):
            store_scalar(target + row * scalar, load_scalar(source + row * stride, like))
        source += scalar
        target += BYTES


def _pack_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _pack_task, variant)

    return kernel


def pack_rows(*matrices: torch.Tensor) -> list[torch.Tensor]:
    """(blocks, columns, lanes) from each (rows, columns), one type for all; missing rows are zero.

    Raises:
        ValueError: one is no matrix, of another type than the first, or not on the CPU.
    """
    dtype = matrices[0].dtype
    if any(matrix.ndim != 2 or matrix.dtype != dtype or not matrix.is_cpu for matrix in matrices):
        kinds = ", ".join(f"{tuple(matrix.shape)} {matrix.dtype} on {matrix.device}" for matrix in matrices)
        raise ValueError(f"pack_rows: takes matrices of one type on the CPU, got {kinds}")
    lanes = BYTES // matrices[0].element_size()
    matrices = tuple(row_contiguous(matrix) for matrix in matrices)
    packed = [matrix.new_empty(-(-matrix.shape[0] // lanes), matrix.shape[1], lanes) for matrix in matrices]
    parameters = []
    for source, target in zip(matrices, packed, strict=True):
        stride = source.stride(0) * source.element_size()
        parameters += [source.data_ptr(), stride, *source.shape, target.data_ptr()]
    run(_pack_kernel, matrices[0].dtype, sum(target.shape[0] for target in packed), parameters)
    return packed
