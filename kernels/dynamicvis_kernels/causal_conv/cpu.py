"""The causal convolution on the CPU: forward by rows of the sequence, gradient by blocks of channels."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch.nn import functional as F

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    describe_sequence,
    load_parameter,
    row_stride,
    run,
    sequence_start,
    thread_count,
    work,
)
from dynamicvis_kernels._simd import BYTES, lane_count, load, sigmoid, splat, store

_ROWS = 32  # rows of one forward task: with its neighbours it fits the second-level cache at 1536 channels

_LENGTH, _CHANNELS, _WIDTH, _WEIGHT, _BIAS = range(HEADER, HEADER + 5)
_X, _OUT, _GRAD_X = range(HEADER + 5, HEADER + 5 + 3 * SEQUENCE, SEQUENCE)
_BEGIN, _END, _FIRST, _LAST = range(_GRAD_X, _GRAD_X + 4)
_GRAD_WEIGHT, _GRAD_BIAS, _SCRATCH, _SCRATCH_SLOT = range(_GRAD_X + SEQUENCE, _GRAD_X + SEQUENCE + 4)


@njit(forceinline=True, error_model="numpy")
def _first_tap(t, direction, length, width):
    """The first tap that lies inside the sequence; all later ones do too."""
    return max(0, t + width - length if direction else width - 1 - t)


@njit(forceinline=True, error_model="numpy")
def _convolve(p, x, t, direction, block, active, like):
    """Convolution before SiLU of one block of channels at position t, from the past (0) or the future (1)."""
    length, width = load_parameter(p, _LENGTH), load_parameter(p, _WIDTH)
    weight = load_parameter(p, _WEIGHT) + block * width * BYTES
    value = load(load_parameter(p, _BIAS) + block * BYTES, lane_count(like), like)
    step = -row_stride(p, _X) if direction else row_stride(p, _X)
    farthest = x + t * row_stride(p, _X) - (width - 1) * step
    for k in range(_first_tap(t, direction, length, width), width):
        value = value + load(weight + k * BYTES, lane_count(like), like) * load(farthest + k * step, active, like)
    return value


@njit(error_model="numpy")
def _forward_task(p, task, slot, like):
    lanes = lane_count(like)
    channels, begin, end = load_parameter(p, _CHANNELS), load_parameter(p, _BEGIN), load_parameter(p, _END)
    parts = (end - begin + _ROWS - 1) // _ROWS
    batch, start = task // parts, begin + (task % parts) * _ROWS
    for t in range(start, min(start + _ROWS, end)):
        for block in range((channels + lanes - 1) // lanes):
            lane, active = block * BYTES, min(lanes, channels - block * lanes)
            x = sequence_start(p, _X, 0, batch) + lane
            for direction in range(load_parameter(p, _FIRST), load_parameter(p, _LAST)):
                value = _convolve(p, x, t, direction, block, active, like)
                out = sequence_start(p, _OUT, direction, batch) + lane + (t - begin) * row_stride(p, _OUT)
                store(out, active, value * sigmoid(value))


@njit(error_model="numpy")
def _backward_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels, width = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS), load_parameter(p, _WIDTH)
    blocks = (channels + lanes - 1) // lanes
    batch, block = task // blocks, task % blocks
    lane, active = block * BYTES, min(lanes, channels - block * lanes)
    grad_inner = load_parameter(p, _SCRATCH) + slot * load_parameter(p, _SCRATCH_SLOT)
    weight = load_parameter(p, _WEIGHT) + block * width * BYTES
    grad_weight = load_parameter(p, _GRAD_WEIGHT) + task * width * BYTES
    x = sequence_start(p, _X, 0, batch) + lane
    grad_bias = splat(0.0, like)
    for k in range(width):
        store(grad_weight + k * BYTES, lanes, splat(0.0, like))
    for direction in range(2):
        grad_out = sequence_start(p, _OUT, direction, batch) + lane
        for t in range(length):
            value = _convolve(p, x, t, direction, block, active, like)
            slope = sigmoid(value)
            slope = slope * (value - value * slope + 1.0)
            inner = load(grad_out + t * row_stride(p, _OUT), active, like) * slope
            store(grad_inner + (direction * length + t) * BYTES, lanes, inner)
            grad_bias = grad_bias + inner
            for k in range(_first_tap(t, direction, length, width), width):
                s = t + width - 1 - k if direction else t - (width - 1 - k)
                gradient = load(grad_weight + k * BYTES, lanes, like)
                gradient = gradient + inner * load(x + s * row_stride(p, _X), active, like)
                store(grad_weight + k * BYTES, lanes, gradient)
    store(load_parameter(p, _GRAD_BIAS) + task * BYTES, lanes, grad_bias)
    grad_x = sequence_start(p, _GRAD_X, 0, batch) + lane
    for t in range(length):
        gradient = splat(0.0, like)
        for k in range(width):
            reach = width - 1 - k
            tap = load(weight + k * BYTES, lanes, like)
            if t + reach < length:
                gradient = gradient + tap * load(grad_inner + (t + reach) * BYTES, lanes, like)
            if t - reach >= 0:
                gradient = gradient + tap * load(grad_inner + (length + t - reach) * BYTES, lanes, like)
        store(grad_x + t * row_stride(p, _GRAD_X), active, gradient)


def _forward_float32(p: int) -> None:
    work(p, _forward_task, np.float32(0))


def _forward_float64(p: int) -> None:
    work(p, _forward_task, np.float64(0))


def _backward_float32(p: int) -> None:
    work(p, _backward_task, np.float32(0))


def _backward_float64(p: int) -> None:
    work(p, _backward_task, np.float64(0))


_FORWARD = {torch.float32: _forward_float32, torch.float64: _forward_float64}
_BACKWARD = {torch.float32: _backward_float32, torch.float64: _backward_float64}


def blocked_taps(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight as (blocks, width, lanes) and bias as (blocks, lanes), missing channels zero."""
    lanes = BYTES // bias.element_size()
    missing = -len(bias) % lanes
    padded = F.pad(weight, (0, 0, 0, missing)).view(-1, lanes, weight.shape[1])
    return padded.transpose(1, 2).contiguous(), F.pad(bias, (0, missing)).view(-1, lanes)


def convolve_rows(
    x: torch.Tensor,
    taps: torch.Tensor,
    offsets: torch.Tensor,
    out: torch.Tensor,
    rows: tuple[int, int],
    directions: tuple[int, int],
) -> None:
    """Convolution and SiLU of a run of rows.

    Args:
        x: (batch, length, channels), the whole sequence.
        taps, offsets: from `blocked_taps`.
        out: ([2,] batch, run, channels); without directions, all directions write the same memory.
        rows: first row of the run, and one beyond its last.
        directions: first direction, and one beyond the last.
    """
    batch, length, channels = x.shape
    parameters = [length, channels, taps.shape[1], taps.data_ptr(), offsets.data_ptr()]
    parameters += [*describe_sequence(x), *describe_sequence(out), *rows, *directions]
    run(_FORWARD[x.dtype], batch * -(-(rows[1] - rows[0]) // _ROWS), parameters)


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.causal_conv_silu`."""
    out = torch.empty(2, *x.shape, dtype=x.dtype)
    convolve_rows(row_contiguous(x), *blocked_taps(weight, bias), out, (0, x.shape[1]), (0, 2))
    return out


def backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x, weight and bias from the gradient of the output."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    lanes = BYTES // x.element_size()
    x, grad = row_contiguous(x), row_contiguous(grad)
    taps, offsets = blocked_taps(weight, bias)
    tasks = batch * len(taps)
    grad_x = torch.empty(x.shape, dtype=x.dtype)
    grad_weight = torch.empty(batch, *taps.shape, dtype=x.dtype)
    grad_bias = torch.empty(batch, len(taps) * lanes, dtype=x.dtype)
    scratch = torch.empty(thread_count(tasks), 2 * length * lanes, dtype=x.dtype)
    parameters = [length, channels, width, taps.data_ptr(), offsets.data_ptr()]
    parameters += [value for tensor in (x, grad, grad_x) for value in describe_sequence(tensor)]
    parameters += [tensor.data_ptr() for tensor in (grad_weight, grad_bias, scratch)]
    run(_BACKWARD[x.dtype], tasks, [*parameters, 2 * length * BYTES])
    taps_gradient = grad_weight.sum(0).transpose(1, 2).reshape(-1, width)[:channels]
    return [grad_x, taps_gradient, grad_bias.sum(0)[:channels].clone()]
