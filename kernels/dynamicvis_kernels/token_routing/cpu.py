"""Gather and scatter of tokens on the CPU, for inference: rows are copied or updated in place as vectors."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    describe_sequence,
    load_parameter,
    row_stride,
    run,
    sequence_start,
    work,
)
from dynamicvis_kernels._simd import BYTES, lane_count, load, load_scalar, store

_ROWS = 64  # rows of one task

_COUNT, _CHANNELS, _INDICES, _WEIGHTS = range(HEADER, HEADER + 4)
_FROM, _TO = range(HEADER + 4, HEADER + 4 + 2 * SEQUENCE, SEQUENCE)


@njit(error_model="numpy")
def _gather_task(p, task, slot, like):
    lanes = lane_count(like)
    count, channels = load_parameter(p, _COUNT), load_parameter(p, _CHANNELS)
    parts = (count + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for k in range(start, min(start + _ROWS, count)):
        index = load_parameter(load_parameter(p, _INDICES), batch * count + k)
        source = sequence_start(p, _FROM, 0, batch) + index * row_stride(p, _FROM)
        target = sequence_start(p, _TO, 0, batch) + k * row_stride(p, _TO)
        for c in range(0, channels, lanes):
            width = min(lanes, channels - c)
            at = c // lanes * BYTES
            store(target + at, width, load(source + at, width, like))


@njit(error_model="numpy")
def _add_task(p, task, slot, like):
    """to[index[k]] += weight[k] * from[k]."""
    lanes = lane_count(like)
    count, channels = load_parameter(p, _COUNT), load_parameter(p, _CHANNELS)
    parts = (count + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for k in range(start, min(start + _ROWS, count)):
        index = load_parameter(load_parameter(p, _INDICES), batch * count + k)
        weight = load_scalar(load_parameter(p, _WEIGHTS) + (batch * count + k) * (BYTES // lanes), like)
        source = sequence_start(p, _FROM, 0, batch) + k * row_stride(p, _FROM)
        target = sequence_start(p, _TO, 0, batch) + index * row_stride(p, _TO)
        for c in range(0, channels, lanes):
            width = min(lanes, channels - c)
            at = c // lanes * BYTES
            store(target + at, width, load(target + at, width, like) + load(source + at, width, like) * weight)


@njit(error_model="numpy")
def _scale_task(p, task, slot, like):
    """to[n] *= weight[n]."""
    lanes = lane_count(like)
    count, channels = load_parameter(p, _COUNT), load_parameter(p, _CHANNELS)
    parts = (count + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for n in range(start, min(start + _ROWS, count)):
        weight = load_scalar(load_parameter(p, _WEIGHTS) + (batch * count + n) * (BYTES // lanes), like)
        target = sequence_start(p, _TO, 0, batch) + n * row_stride(p, _TO)
        for c in range(0, channels, lanes):
            width = min(lanes, channels - c)
            at = c // lanes * BYTES
            store(target + at, width, load(target + at, width, like) * weight)


def _gather_float32(p: int) -> None:
    work(p, _gather_task, np.float32(0))


def _gather_float64(p: int) -> None:
    work(p, _gather_task, np.float64(0))


def _add_float32(p: int) -> None:
    work(p, _add_task, np.float32(0))


def _add_float64(p: int) -> None:
    work(p, _add_task, np.float64(0))


def _scale_float32(p: int) -> None:
    work(p, _scale_task, np.float32(0))


def _scale_float64(p: int) -> None:
    work(p, _scale_task, np.float64(0))


_GATHER = {torch.float32: _gather_float32, torch.float64: _gather_float64}
_ADD = {torch.float32: _add_float32, torch.float64: _add_float64}
_SCALE = {torch.float32: _scale_float32, torch.float64: _scale_float64}


def gather_rows(tokens: torch.Tensor, indices: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """`gather_tokens` without gradient, into ``out``; rows are dense, indices contiguous and in range."""
    batch, count = indices.shape
    if out is None:
        out = torch.empty(batch, count, tokens.shape[2], dtype=tokens.dtype)
    parameters = [count, tokens.shape[2], indices.data_ptr(), 0, *describe_sequence(tokens), *describe_sequence(out)]
    run(_GATHER[tokens.dtype], batch * -(-count // _ROWS), parameters)
    return out


def scatter_rows_(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> None:
    """`scatter_tokens` in place of ``tokens``; indices are contiguous, distinct and in range."""
    batch, count = indices.shape
    length, channels = tokens.shape[1:]
    chosen = weights.gather(1, indices)
    if residual == "softmax":
        scale = (weights + 1).scatter_(1, indices, 1.0)
        parameters = [length, channels, 0, scale.data_ptr(), *[0] * SEQUENCE, *describe_sequence(tokens)]
        run(_SCALE[tokens.dtype], batch * -(-length // _ROWS), parameters)
    mixed = row_contiguous(mixed)
    parameters = [count, channels, indices.data_ptr(), chosen.data_ptr()]
    parameters += [*describe_sequence(mixed), *describe_sequence(tokens)]
    run(_ADD[tokens.dtype], batch * -(-count // _ROWS), parameters)
