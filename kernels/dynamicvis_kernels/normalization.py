"""Norms into memory that is already there, for inference on the CPU: large tokens are not held twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from dynamicvis_kernels._checks import check_arguments, check_indices, name_dimensions
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    MakeKernel,
    Variant,
    describe_sequence,
    load_parameter,
    refuse,
    row_stride,
    run,
    sequence_start,
    work,
)
from dynamicvis_kernels._simd import BYTES, first_lanes, lane_count, load, load_scalar, splat, store, total

_ROWS = 64  # rows of one task

_LENGTH, _CHANNELS, _WEIGHT, _BIAS, _EPS, _INDICES, _INDEXED = range(HEADER, HEADER + 7)
_TOKENS, _OUT = range(HEADER + 7, HEADER + 7 + 2 * SEQUENCE, SEQUENCE)


@njit(error_model="numpy")
def _layer_norm_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS)
    weight, bias = load_parameter(p, _WEIGHT), load_parameter(p, _BIAS)
    eps = load_scalar(p + _EPS * 8, 0.0)
    parts = (length + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for t in range(start, min(start + _ROWS, length)):
        row = sequence_start(p, _TOKENS, 0, batch) + t * row_stride(p, _TOKENS)
        sums = splat(0.0, like)
        for c in range(0, channels, lanes):
            sums = sums + load(row + c // lanes * BYTES, min(lanes, channels - c), like)
        mean = total(sums) / channels
        squares = splat(0.0, like)
        for c in range(0, channels, lanes):
            width = min(lanes, channels - c)
            value = first_lanes(load(row + c // lanes * BYTES, width, like) - mean, width)
            squares = squares + value * value
        scale = 1.0 / np.sqrt(total(squares) / channels + eps)
        for c in range(0, channels, lanes):
            at, width = c // lanes * BYTES, min(lanes, channels - c)
            value = (load(row + at, width, like) - mean) * scale
            store(row + at, width, value * load(weight + at, width, like) + load(bias + at, width, like))


@njit(error_model="numpy")
def _rms_norm_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS)
    weight, eps = load_parameter(p, _WEIGHT), load_scalar(p + _EPS * 8, 0.0)
    indices, indexed = load_parameter(p, _INDICES), load_parameter(p, _INDEXED)
    parts = (length + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for t in range(start, min(start + _ROWS, length)):
        index = load_parameter(indices, batch * length + t) if indices else t
        if index < 0 or index >= indexed:
            refuse(p)
            continue
        row = sequence_start(p, _TOKENS, 0, batch) + index * row_stride(p, _TOKENS)
        out = sequence_start(p, _OUT, 0, batch) + t * row_stride(p, _OUT)
        squares = splat(0.0, like)
        for c in range(0, channels, lanes):
            value = load(row + c // lanes * BYTES, min(lanes, channels - c), like)
            squares = squares + value * value
        scale = 1.0 / np.sqrt(total(squares) / channels + eps)
        for c in range(0, channels, lanes):
            at, width = c // lanes * BYTES, min(lanes, channels - c)
            store(out + at, width, load(row + at, width, like) * scale * load(weight + at, width, like))


def _layer_norm_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _layer_norm_task, variant)

    return kernel


def _rms_norm_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _rms_norm_task, variant)

    return kernel


def layer_norm_(tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Layer norm over the channels in place of the tokens. Not differentiable.

    Args:
        tokens: (batch, length, channels), float32 or float64, on the CPU, rows dense.
        weight, bias: (channels,), of the same type.
        eps: added to the variance.

    Returns:
        ``tokens``.

    Raises:
        ValueError: a shape, type, device or stride does not fit, or a gradient is asked for.
    """
    if tokens.ndim != 3:
        name_dimensions("layer_norm_", tokens=(tokens, 3))
    shape = tokens.shape
    expected = {"tokens": (tokens, shape), "weight": (weight, shape[2:]), "bias": (bias, shape[2:])}
    check_arguments("layer_norm_", tokens, expected, written=(tokens,))
    weight, bias = weight.contiguous(), bias.contiguous()
    _run(_layer_norm_kernel, tokens, weight, bias.data_ptr(), eps, tokens)
    return tokens


def rms_norm(
    tokens: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor, indices: torch.Tensor | None = None
) -> torch.Tensor:
    """RMS norm over the channels, of all tokens or of some, into ``out``. Not differentiable.

    Args:
        tokens: (batch, length, channels), float32 or float64, on the CPU, rows dense.
        weight: (channels,), of the same type.
        eps: added to the mean square.
        out: (batch, length or count, channels), of the same type, rows dense; may be the tokens, without indices.
        indices: (batch, count), int64, contiguous, in [0, length): the tokens to take, in their order.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, type, device or stride does not fit, an index lies outside, or a gradient is asked for.
    """
    if tokens.ndim != 3 or out.ndim != 3:
        name_dimensions("rms_norm", tokens=(tokens, 3), out=(out, 3))
    batch, length, channels = tokens.shape
    count = length if indices is None else out.shape[1]
    expected = {
        "tokens": (tokens, tokens.shape),
        "weight": (weight, (channels,)),
        "out": (out, (batch, count, channels)),
    }
    check_arguments("rms_norm", tokens, expected, dense=(tokens,), written=(out,))
    if indices is not None:
        check_indices("rms_norm", indices, batch, count)
    _run(_rms_norm_kernel, tokens, weight.contiguous(), 0, eps, out, 0 if indices is None else indices.data_ptr())
    return out


def _run(
    make: MakeKernel,
    tokens: torch.Tensor,
    weight: torch.Tensor,
    bias_address: int,
    eps: float,
    out: torch.Tensor,
    indices_address: int = 0,
) -> None:
    batch, length, channels = out.shape
    parameters = [length, channels, weight.data_ptr(), bias_address, int(np.float64(eps).view(np.int64))]
    parameters += [indices_address, tokens.shape[1], *describe_sequence(tokens), *describe_sequence(out)]
    run(make, tokens.dtype, batch * -(-length // _ROWS), parameters)
