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
_GRAD_WEIGHT, _GRAD_BIAS, _SCRATCH, _SCRATCH_SLOT = range(_GRAD_X + SEQUENCE, _GRAD_X + SEQUENCE + 4)


@njit(forceinline=True, error_model="numpy")
def _convolve(p, x, t, direction, block, active, like):
    """Convolution before SiLU of one block of channels at position t, from the past (0) or the future (1)."""
    length, width = load_parameter(p, _LENGTH), load_parameter(p, _WIDTH)
    weight = load_parameter(p, _WEIGHT) + block * width * BYTES
    value = load(load_parameter(p, _BIAS) + block * BYTES, lane_count(like), like)
    for k in range(width):
        reach = width - 1 - k
        s = t + reach if direction else t - reach
        if 0 <= s < length:
            value = value + load(weight + k * BYTES, lane_count(like), like) * load(
                x + s * row_stride(p, _X), active, like
            )
    return value


@njit(error_model="numpy")
def _forward_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS)
    parts = (length + _ROWS - 1) // _ROWS
    batch, part = task // parts, task % parts
    for t in range(part * _ROWS, min((part + 1) * _ROWS, length)):
        for block in range((channels + lanes - 1) // lanes):
            lane, active = block * BYTES, min(lanes, channels - block * lanes)
            x = sequence_start(p, _X, 0, batch) + lane
            for direction in range(2):
                value = _convolve(p, x, t, direction, block, active, like)
                out = sequence_start(p, _OUT, direction, batch) + lane + t * row_stride(p, _OUT)
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
            for k in range(width):
                reach = width - 1 - k
                s = t + reach if direction else t - reach
                if 0 <= s < length:
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


def _blocked_parameters(weight: torch.Tensor, bias: torch.Tensor, lanes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight as (blocks, width, lanes) and bias as (blocks, lanes), missing channels zero."""
    missing = -len(bias) % lanes
    padded = F.pad(weight, (0, 0, 0, missing)).view(-1, lanes, weight.shape[1])
    return padded.transpose(1, 2).contiguous(), F.pad(bias, (0, missing)).view(-1, lanes)


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.causal_conv_silu`."""
    batch, length, channels = x.shape
    x = row_contiguous(x)
    taps, offsets = _blocked_parameters(weight, bias, BYTES // x.element_size())
    out = torch.empty(2, batch, length, channels, dtype=x.dtype)
    parameters = [length, channels, weight.shape[1], taps.data_ptr(), offsets.data_ptr()]
    parameters += [*describe_sequence(x), *describe_sequence(out)]
    run(_FORWARD[x.dtype], batch * -(-length // _ROWS), parameters)
    return out


def backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x, weight and bias from the gradient of the output."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    lanes = BYTES // x.element_size()
    x, grad = row_contiguous(x), row_contiguous(grad)
    taps, offsets = _blocked_parameters(weight, bias, lanes)
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
