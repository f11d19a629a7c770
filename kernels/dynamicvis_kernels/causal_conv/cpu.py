"""The causal convolution on the CPU: forward by rows of the sequence, gradient by blocks of channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._exponentials import sigmoid
from dynamicvis_kernels._packing import pack_rows
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    Launch,
    Variant,
    address,
    describe_sequence,
    load_parameter,
    row_stride,
    run,
    sequence_start,
    thread_count,
    work,
)
from dynamicvis_kernels._simd import (
    BYTES,
    PANELS_AT_ONCE,
    ROWS_AT_ONCE,
    lane_count,
    load,
    multiply_rows,
    prefetch,
    splat,
    store,
)

_ROWS = 32  # rows of one forward task: with its neighbours it fits the second-level cache at 1536 channels

_LENGTH, _CHANNELS, _WIDTH, _WEIGHT, _BIAS = range(HEADER, HEADER + 5)
_X, _OUT, _GRAD_X = range(HEADER + 5, HEADER + 5 + 3 * SEQUENCE, SEQUENCE)
_BEGIN, _END, _FIRST, _LAST, _PANELS, _PROJECTION, _PROJECTED = range(_GRAD_X, _GRAD_X + 7)
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
    value = load(load_parameter(p, _BIAS) + block * BYTES, active, like)
    step = -row_stride(p, _X) if direction else row_stride(p, _X)
    farthest = x + t * row_stride(p, _X) - (width - 1) * step
    for k in range(_first_tap(t, direction, length, width), width):
        value = value + load(weight + k * BYTES, lane_count(like), like) * load(farthest + k * step, active, like)
    return value


@njit(forceinline=True, error_model="numpy")
def _convolve_four(x, stride, weight, bias, width, active, like):
    """`_convolve` at four neighbouring positions, all taps inside; ``x`` is where the last tap of the first one is."""
    lanes = lane_count(like)
    v0, v1, v2, v3 = bias, bias, bias, bias
    for k in range(width):
        tap = load(weight + k * BYTES, lanes, like)
        v0 = v0 + tap * load(x, active, like)
        v1 = v1 + tap * load(x + stride, active, like)
        v2 = v2 + tap * load(x + 2 * stride, active, like)
        v3 = v3 + tap * load(x + 3 * stride, active, like)
        x += stride
    return v0, v1, v2, v3


@njit(error_model="numpy")
def _project(p, rows, count, out, like):
    """Products of finished rows with all panels of the projection."""
    channels, panels = load_parameter(p, _CHANNELS), load_parameter(p, _PANELS)
    stride, out_stride = row_stride(p, _OUT), row_stride(p, _PROJECTED)
    for first in range(0, panels, PANELS_AT_ONCE):
        panel = load_parameter(p, _PROJECTION) + first * channels * BYTES
        for i in range(0, count, ROWS_AT_ONCE):
            source, target = rows + i * stride, out + i * out_stride + first * BYTES
            if first + PANELS_AT_ONCE <= panels:
                multiply_rows(source, stride, count - 1 - i, panel, channels, target, out_stride, PANELS_AT_ONCE, like)
            else:
                multiply_rows(source, stride, count - 1 - i, panel, channels, target, out_stride, 1, like)


@njit(error_model="numpy")
def _forward_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels, width = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS), load_parameter(p, _WIDTH)
    run_begin, run_end = load_parameter(p, _BEGIN), load_parameter(p, _END)
    blocks, parts = (channels + lanes - 1) // lanes, (run_end - run_begin + _ROWS - 1) // _ROWS
    batch, begin = task // parts, run_begin + (task % parts) * _ROWS
    end = min(begin + _ROWS, run_end)
    x_stride, out_stride = row_stride(p, _X), row_stride(p, _OUT)
    for direction in range(load_parameter(p, _FIRST), load_parameter(p, _LAST)):
        # Rows whose taps all lie inside the sequence.
        inside, outside = (begin, min(end, length - width + 1)) if direction else (max(begin, width - 1), end)
        x = sequence_start(p, _X, 0, batch)
        out = sequence_start(p, _OUT, direction, batch) - run_begin * out_stride
        t = begin
        while t < end:
            if inside <= t and t + 4 <= outside:
                for block in range(blocks):
                    lane, active = block * BYTES, min(lanes, channels - block * lanes)
                    weight = load_parameter(p, _WEIGHT) + block * width * BYTES
                    bias = load(load_parameter(p, _BIAS) + block * BYTES, active, like)
                    if direction:
                        v3, v2, v1, v0 = _convolve_four(
                            x + (t + width + 2) * x_stride + lane, -x_stride, weight, bias, width, active, like
                        )
                    else:
                        v0, v1, v2, v3 = _convolve_four(
                            x + (t - width + 1) * x_stride + lane, x_stride, weight, bias, width, active, like
                        )
                    # The next four: the processor's own prefetching ends with a page, and a page holds few rows.
                    ahead = x + (t + 4) * x_stride + lane
                    prefetch(ahead)
                    prefetch(ahead + x_stride)
                    prefetch(ahead + 2 * x_stride)
                    prefetch(ahead + 3 * x_stride)
                    out_t = out + t * out_stride + lane
                    store(out_t, active, v0 * sigmoid(v0))
                    store(out_t + out_stride, active, v1 * sigmoid(v1))
                    store(out_t + 2 * out_stride, active, v2 * sigmoid(v2))
                    store(out_t + 3 * out_stride, active, v3 * sigmoid(v3))
                t += 4
            else:
                for block in range(blocks):
                    lane, active = block * BYTES, min(lanes, channels - block * lanes)
                    value = _convolve(p, x + lane, t, direction, block, active, like)
                    store(out + t * out_stride + lane, active, value * sigmoid(value))
                t += 1
        if load_parameter(p, _PANELS):
            projected = sequence_start(p, _PROJECTED, direction, batch)
            projected += (begin - run_begin) * row_stride(p, _PROJECTED)
            _project(p, out + begin * out_stride, end - begin, projected, like)


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


def _forward_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _forward_task, variant)

    return kernel


def _backward_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _backward_task, variant)

    return kernel


class RowConvolution:
    """Convolution and SiLU of runs of rows, and the rows' projection, which finds them in a cache.

    Args:
        x: (batch, length, channels), the whole sequence, rows dense.
        taps: (blocks, width, lanes), `pack_rows` of the weights.
        bias: (channels,), contiguous.
        out: ([2,] batch, rows, channels), where a run begins at the first row; without directions, all directions
            write the same memory.
        projection: (blocks, channels, lanes), `pack_rows` of a matrix.
        projected: ([2,] batch, rows, blocks * lanes), the products of the run's rows with that matrix.
    """

    def __init__(
        self,
        x: torch.Tensor,
        taps: torch.Tensor,
        bias: torch.Tensor,
        out: torch.Tensor,
        projection: torch.Tensor | None = None,
        projected: torch.Tensor | None = None,
    ) -> None:
        self._batch, length, channels = x.shape
        self._tensors = (x, taps, bias, out, projection, projected)
        parameters = [length, channels, taps.shape[1], address(taps), address(bias)]
        parameters += [*describe_sequence(x), *describe_sequence(out), *[0] * 4]
        if projection is None or projected is None:
            parameters += [0]
        else:
            parameters += [projection.shape[0], address(projection), *describe_sequence(projected)]
        self._launch = Launch(_forward_kernel, x.dtype, 0, parameters)

    def __call__(self, rows: tuple[int, int], directions: tuple[int, int]) -> None:
        """Compute from the first of ``rows`` to one before the second, and likewise the directions."""
        self._launch.change(_BEGIN, *rows, *directions)
        self._launch(self._batch * -(-(rows[1] - rows[0]) // _ROWS))


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.causal_conv_silu`."""
    out = x.new_empty(2, *x.shape)
    (taps,) = pack_rows(weight)
    RowConvolution(row_contiguous(x), taps, bias.contiguous(), out)((0, x.shape[1]), (0, 2))
    return out


def backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x, weight and bias from the gradient of the output."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    lanes = BYTES // x.element_size()
    x, grad = row_contiguous(x), row_contiguous(grad)
    (taps,), bias = pack_rows(weight), bias.contiguous()
    tasks = batch * len(taps)
    grad_x = x.new_empty(x.shape)
    grad_weight = x.new_empty(batch, *taps.shape)
    grad_bias = x.new_empty(batch, len(taps) * lanes)
    scratch = x.new_empty(thread_count(tasks), 2 * length * lanes)
    parameters = [length, channels, width, taps.data_ptr(), bias.data_ptr()]
    parameters += [value for tensor in (x, grad, grad_x) for value in describe_sequence(tensor)]
    parameters += [tensor.data_ptr() for tensor in (grad_weight, grad_bias, scratch)]
    run(_backward_kernel, x.dtype, tasks, [*parameters, 2 * length * BYTES], slots=scratch.shape[0])
    taps_gradient = grad_weight.sum(0).transpose(1, 2).reshape(-1, width)[:channels]
    return [grad_x, taps_gradient, grad_bias.sum(0)[:channels].clone()]
