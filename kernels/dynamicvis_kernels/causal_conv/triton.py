"""The causal convolution in Triton: tiles of positions and channels, both directions in one launch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._triton import Launch, execute, sigmoid

_WARPS = 8


@dataclass(frozen=True)
class Blocking:
    """Tile of a program: positions and channels, powers of two."""

    positions: int
    channels: int


def choose_blocking(channels: int) -> Blocking:
    """The tile for a number of channels.

    128 bytes of a bfloat16 row are read at once; four elements for each of the 256 threads of a program leave
    registers for the taps of both directions.
    """
    block = max(16, min(64, triton.next_power_of_2(channels)))
    return Blocking(1024 // block, block)


@triton.jit
def _program(length, channels, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr):
    """Positions, channels, mask of the channels, block of positions and batch element of a program."""
    program = tl.program_id(0)
    blocks, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(length, POSITIONS)
    block, part, element = program % blocks, program // blocks % parts, program // (blocks * parts)
    position = part.to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    return position, channel, channel < channels, part.to(tl.int64), element.to(tl.int64)


@triton.jit
def _convolve(x_ptr, x_row, weight_ptr, bias, position, channel, inside, sign, length, WIDTH: tl.constexpr):
    """Convolution before SiLU at a tile of positions, from the past (sign -1) or the future (1)."""
    value = tl.zeros((position.shape[0], channel.shape[0]), tl.float32) + bias[None, :]
    for k in range(WIDTH):
        source = position + sign * (WIDTH - 1 - k)
        mask = inside[None, :] & (source >= 0) & (source < length)
        tap = tl.load(weight_ptr + channel * WIDTH + k, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + source * x_row + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        value += tap[None, :] * x
    return value


@triton.jit
def _forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    x_batch,
    x_row,
    batch,
    length,
    channels,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    position, channel, inside, _, element = _program(length, channels, POSITIONS, CHANNELS)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    x_ptr += element * x_batch
    for direction in tl.static_range(2):
        value = _convolve(x_ptr, x_row, weight_ptr, bias, position, channel, inside, 2 * direction - 1, length, WIDTH)
        out = out_ptr + ((direction * batch + element) * length + position) * channels + channel[None, :]
        tl.store(out, value * sigmoid(value), mask=inside[None, :] & (position < length))


@triton.jit
def _grad_inner(
    grad_ptr, grad_row, x_ptr, x_row, weight_ptr, bias, position, channel, inside, sign, length, WIDTH: tl.constexpr
):
    """Gradient of the convolution before SiLU at a tile of positions, zero beyond the sequence."""
    value = _convolve(x_ptr, x_row, weight_ptr, bias, position, channel, inside, sign, length, WIDTH)
    mask = inside[None, :] & (position >= 0) & (position < length)
    grad = tl.load(grad_ptr + position * grad_row + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    opened = sigmoid(value)
    return tl.where(mask, grad * opened * (1.0 + value * (1.0 - opened)), 0.0)


@triton.jit
def _backward_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    grad_x_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    grad_direction,
    grad_batch,
    grad_row,
    x_batch,
    x_row,
    batch,
    length,
    channels,
    WIDTH: tl.constexpr,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradient of a tile of x, and the tile's part of the gradients of weight and bias.

    A tap that lies ``reach`` behind the newest sends x[s] to the outputs s + reach and s - reach of the two
    directions: their gradients, recomputed at these positions, give the tap's share in x's gradient and, times x, the
    tap's own.
    """
    position, channel, inside, part, element = _program(length, channels, POSITIONS, CHANNELS)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    x_ptr += element * x_batch
    past_ptr = grad_ptr + element * grad_batch
    future_ptr = past_ptr + grad_direction
    mask = inside[None, :] & (position < length)
    x = tl.load(x_ptr + position * x_row + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    grad_x = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    partial = (element * tl.cdiv(length, POSITIONS) + part) * channels + channel
    for k in range(WIDTH):
        reach = WIDTH - 1 - k
        inner = _grad_inner(
            past_ptr, grad_row, x_ptr, x_row, weight_ptr, bias, position + reach, channel, inside, -1, length, WIDTH
        ) + _grad_inner(
            future_ptr, grad_row, x_ptr, x_row, weight_ptr, bias, position - reach, channel, inside, 1, length, WIDTH
        )
        tap = tl.load(weight_ptr + channel * WIDTH + k, mask=inside, other=0.0).to(tl.float32)
        grad_x += tap[None, :] * inner
        tl.store(grad_weight_ptr + partial * WIDTH + k, tl.sum(inner * x, 0), mask=inside)
        if reach == 0:
            inner = tl.where(position < length, inner, 0.0)
            tl.store(grad_bias_ptr + partial, tl.sum(inner, 0), mask=inside)
    out = grad_x_ptr + (element * length + position) * channels + channel[None, :]
    tl.store(out, grad_x, mask=mask)


def _grid(x: torch.Tensor, blocking: Blocking) -> tuple[int, int, int]:
    """Batch elements, blocks of positions and blocks of channels; their product is the grid."""
    batch, length, channels = x.shape
    return batch, triton.cdiv(length, blocking.positions), triton.cdiv(channels, blocking.channels)


def _constants(weight: torch.Tensor, blocking: Blocking) -> dict[str, int]:
    return {"WIDTH": weight.shape[1], "POSITIONS": blocking.positions, "CHANNELS": blocking.channels}


def plan_forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, blocking: Blocking | None = None
) -> tuple[list[Launch], torch.Tensor]:
    """Launches that compute the output, and the output; inputs as of `dynamicvis_kernels.causal_conv_silu`."""
    blocking = blocking or choose_blocking(x.shape[2])
    x, weight, bias = row_contiguous(x), weight.contiguous(), bias.contiguous()
    out = torch.empty((2, *x.shape), dtype=x.dtype, device=x.device)
    launch = Launch(
        "convolution",
        _forward_kernel,
        (math.prod(_grid(x, blocking)),),
        (x, weight, bias, out, *x.stride()[:2], *x.shape),
        _constants(weight, blocking),
        num_warps=_WARPS,
    )
    return [launch], out


def plan_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, blocking: Blocking | None = None
) -> tuple[list[Launch], Callable[[], list[torch.Tensor]]]:
    """Launches that compute partial gradients, and the function that ends in the gradients of all inputs."""
    blocking = blocking or choose_blocking(x.shape[2])
    grad, x, weight, bias = row_contiguous(grad), row_contiguous(x), weight.contiguous(), bias.contiguous()
    batch, parts, blocks = _grid(x, blocking)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_weight = torch.empty((batch * parts, *weight.shape), dtype=torch.float32, device=x.device)
    grad_bias = torch.empty((batch * parts, *bias.shape), dtype=torch.float32, device=x.device)
    launch = Launch(
        "convolution gradients",
        _backward_kernel,
        (batch * parts * blocks,),
        (
            *(grad, x, weight, bias, grad_x, grad_weight, grad_bias),
            *(*grad.stride()[:3], *x.stride()[:2], *x.shape),
        ),
        _constants(weight, blocking),
        num_warps=_WARPS,
    )

    def finish() -> list[torch.Tensor]:
        return [grad_x, grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(bias.dtype)]

    return [launch], finish


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.causal_conv_silu`."""
    launches, output = plan_forward(x, weight, bias)
    execute(launches)
    return output


def backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of x, weight and bias from the gradient of the output."""
    launches, finish = plan_backward(grad, x, weight, bias)
    execute(launches)
    return finish()
