"""Gathering and scattering tokens in Triton: one program a block of rows; the gradient of a scatter is one pass too.

Indices are distinct within a batch element, so every element of every result has one writer. Rows whose index lies
outside the sequence are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._triton import Launch, execute


@dataclass(frozen=True)
class Blocking:
    """Tile of a program: rows and channels, powers of two; a program loops over the channels of its rows."""

    rows: int
    channels: int


def choose_blocking(channels: int) -> Blocking:
    """The tile for a number of channels: up to 512 bytes of a bfloat16 row, and 2048 elements for 128 threads."""
    block = max(16, min(256, triton.next_power_of_2(channels)))
    return Blocking(2048 // block, block)


@triton.jit
def _program(rows, ROWS: tl.constexpr):
    """Rows of a program, their mask and the batch element; 64 bits wide for offsets."""
    program = tl.program_id(0)
    parts = tl.cdiv(rows, ROWS)
    row = (program % parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return row, row < rows, (program // parts).to(tl.int64)


@triton.jit
def _gather_kernel(
    tokens_ptr,
    indices_ptr,
    out_ptr,
    tokens_batch,
    tokens_row,
    tokens,
    channels,
    kept,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row, inside, element = _program(kept, ROWS)
    index = tl.load(indices_ptr + element * kept + row, mask=inside, other=-1)
    valid = (index >= 0) & (index < tokens)
    source = (tokens_ptr + element * tokens_batch + index * tokens_row)[:, None]
    out = (out_ptr + (element * kept + row) * channels)[:, None]
    for begin in range(0, channels, CHANNELS):
        channel = (begin + tl.arange(0, CHANNELS))[None, :]
        value = tl.load(source + channel, mask=valid[:, None] & (channel < channels), other=0.0)
        tl.store(out + channel, value, mask=inside[:, None] & (channel < channels))


@triton.jit
def _gather_gradient_kernel(
    grad_ptr,
    indices_ptr,
    grad_tokens_ptr,
    grad_batch,
    grad_row,
    tokens,
    channels,
    kept,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The selected rows; the others are zero before."""
    row, inside, element = _program(kept, ROWS)
    index = tl.load(indices_ptr + element * kept + row, mask=inside, other=-1)
    valid = ((index >= 0) & (index < tokens))[:, None]
    grad = (grad_ptr + element * grad_batch + row * grad_row)[:, None]
    out = (grad_tokens_ptr + (element * tokens + index) * channels)[:, None]
    for begin in range(0, channels, CHANNELS):
        channel = (begin + tl.arange(0, CHANNELS))[None, :]
        mask = valid & (channel < channels)
        tl.store(out + channel, tl.load(grad + channel, mask=mask, other=0.0), mask=mask)


@triton.jit
def _invert_kernel(indices_ptr, places_ptr, tokens, kept, ROWS: tl.constexpr):
    """places[indices[k]] = k; the others are -1 before."""
    row, inside, element = _program(kept, ROWS)
    index = tl.load(indices_ptr + element * kept + row, mask=inside, other=-1)
    tl.store(places_ptr + element * tokens + index, row.to(tl.int32), mask=(index >= 0) & (index < tokens))


@triton.jit
def _scatter_kernel(
    tokens_ptr,
    mixed_ptr,
    weights_ptr,
    places_ptr,
    out_ptr,
    tokens_batch,
    tokens_row,
    mixed_batch,
    mixed_row,
    out_batch,
    out_row,
    tokens,
    channels,
    SOFTMAX: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """``out`` may be ``tokens``: each of its elements is read and written by the same thread."""
    row, inside, element = _program(tokens, ROWS)
    place = tl.load(places_ptr + element * tokens + row, mask=inside, other=-1).to(tl.int64)
    weight = tl.load(weights_ptr + element * tokens + row, mask=inside, other=0.0).to(tl.float32)[:, None]
    selected = (place >= 0)[:, None]
    source = (tokens_ptr + element * tokens_batch + row * tokens_row)[:, None]
    mixed = (mixed_ptr + element * mixed_batch + place * mixed_row)[:, None]
    out = (out_ptr + element * out_batch + row * out_row)[:, None]
    for begin in range(0, channels, CHANNELS):
        channel = (begin + tl.arange(0, CHANNELS))[None, :]
        mask = inside[:, None] & (channel < channels)
        token = tl.load(source + channel, mask=mask, other=0.0).to(tl.float32)
        update = tl.load(mixed + channel, mask=mask & selected, other=0.0).to(tl.float32)
        if SOFTMAX:
            update = tl.where(selected, update, token)
        tl.store(out + channel, tl.where(selected | SOFTMAX, token + weight * update, token), mask=mask)


@triton.jit
def _scatter_gradient_kernel(
    grad_ptr,
    tokens_ptr,
    mixed_ptr,
    weights_ptr,
    places_ptr,
    grad_tokens_ptr,
    grad_mixed_ptr,
    grad_weights_ptr,
    grad_batch,
    grad_row,
    tokens_batch,
    tokens_row,
    mixed_batch,
    mixed_row,
    tokens,
    channels,
    kept,
    SOFTMAX: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row, inside, element = _program(tokens, ROWS)
    place = tl.load(places_ptr + element * tokens + row, mask=inside, other=-1).to(tl.int64)
    weight = tl.load(weights_ptr + element * tokens + row, mask=inside, other=0.0).to(tl.float32)[:, None]
    selected = (place >= 0)[:, None]
    grad_at = (grad_ptr + element * grad_batch + row * grad_row)[:, None]
    source = (tokens_ptr + element * tokens_batch + row * tokens_row)[:, None]
    mixed = (mixed_ptr + element * mixed_batch + place * mixed_row)[:, None]
    out = (grad_tokens_ptr + (element * tokens + row) * channels)[:, None]
    out_mixed = (grad_mixed_ptr + (element * kept + place) * channels)[:, None]
    to_weight = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, channels, CHANNELS):
        channel = (begin + tl.arange(0, CHANNELS))[None, :]
        mask = inside[:, None] & (channel < channels)
        grad = tl.load(grad_at + channel, mask=mask, other=0.0).to(tl.float32)
        update = tl.load(mixed + channel, mask=mask & selected, other=0.0).to(tl.float32)
        to_token = grad
        if SOFTMAX:
            token = tl.load(source + channel, mask=mask, other=0.0).to(tl.float32)
            update = tl.where(selected, update, token)
            to_token = tl.where(selected, grad, grad + weight * grad)
        to_weight += tl.sum(grad * update, 1)
        tl.store(out + channel, to_token, mask=mask)
        tl.store(out_mixed + channel, weight * grad, mask=mask & selected)
    tl.store(grad_weights_ptr + element * tokens + row, to_weight, mask=inside)


def _launch(
    name: str, kernel: Any, batch: int, rows: int, arguments: tuple, constants: dict, blocking: Blocking
) -> Launch:
    constants = {**constants, "ROWS": blocking.rows}
    return Launch(name, kernel, (batch * triton.cdiv(rows, blocking.rows),), arguments, constants, num_warps=4)


def _channels(blocking: Blocking) -> dict[str, int]:
    return {"CHANNELS": blocking.channels}


def plan_gather_forward(
    tokens: torch.Tensor, indices: torch.Tensor, blocking: Blocking | None = None
) -> tuple[list[Launch], torch.Tensor]:
    """Launches that compute the output, and the output; inputs as of `dynamicvis_kernels.gather_tokens`."""
    tokens, indices = row_contiguous(tokens), indices.contiguous()
    batch, length, channels = tokens.shape
    kept = indices.shape[1]
    blocking = blocking or choose_blocking(channels)
    out = torch.empty((batch, kept, channels), dtype=tokens.dtype, device=tokens.device)
    arguments = (tokens, indices, out, *tokens.stride()[:2], length, channels, kept)
    return [_launch("gather", _gather_kernel, batch, kept, arguments, _channels(blocking), blocking)], out


def plan_gather_backward(
    grad: torch.Tensor, tokens: torch.Tensor, indices: torch.Tensor, blocking: Blocking | None = None
) -> tuple[list[Launch], Callable[[], list[torch.Tensor]]]:
    """Launches that compute the gradient of the tokens, and the function that returns it."""
    grad, indices = row_contiguous(grad), indices.contiguous()
    batch, length, channels = tokens.shape
    kept = indices.shape[1]
    blocking = blocking or choose_blocking(channels)
    out = torch.zeros(tokens.shape, dtype=tokens.dtype, device=tokens.device)
    arguments = (grad, indices, out, *grad.stride()[:2], length, channels, kept)
    launch = _launch("gather gradient", _gather_gradient_kernel, batch, kept, arguments, _channels(blocking), blocking)
    return [launch], lambda: [out]


def _plan_places(indices: torch.Tensor, length: int, blocking: Blocking) -> tuple[Launch, torch.Tensor]:
    """The launch that finds each token's place among the selected, -1 if it is none of them."""
    batch, kept = indices.shape
    places = torch.full((batch, length), -1, dtype=torch.int32, device=indices.device)
    return _launch(
        "places of tokens", _invert_kernel, batch, kept, (indices, places, length, kept), {}, blocking
    ), places


def plan_scatter_forward(
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
    blocking: Blocking | None = None,
    out: torch.Tensor | None = None,
) -> tuple[list[Launch], torch.Tensor]:
    """Launches that compute the output, and the output; inputs as of `dynamicvis_kernels.scatter_tokens`.

    ``out`` has dense rows; it may be the tokens.
    """
    tokens, mixed, weights = row_contiguous(tokens), row_contiguous(mixed), weights.contiguous()
    batch, length, channels = tokens.shape
    blocking = blocking or choose_blocking(channels)
    invert, places = _plan_places(indices.contiguous(), length, blocking)
    if out is None:
        out = torch.empty(tokens.shape, dtype=tokens.dtype, device=tokens.device)
    strides = [stride for tensor in (tokens, mixed, out) for stride in tensor.stride()[:2]]
    arguments = (tokens, mixed, weights, places, out, *strides, length, channels)
    constants = {"SOFTMAX": residual == "softmax", **_channels(blocking)}
    return [invert, _launch("scatter", _scatter_kernel, batch, length, arguments, constants, blocking)], out


def plan_scatter_backward(
    grad: torch.Tensor,
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
    blocking: Blocking | None = None,
) -> tuple[list[Launch], Callable[[], list[torch.Tensor]]]:
    """Launches that compute the gradients of tokens, mixed and weights, and the function that returns them."""
    grad, tokens, mixed, weights = (
        row_contiguous(grad),
        row_contiguous(tokens),
        row_contiguous(mixed),
        weights.contiguous(),
    )
    batch, length, channels = tokens.shape
    blocking = blocking or choose_blocking(channels)
    invert, places = _plan_places(indices.contiguous(), length, blocking)
    gradients = [
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (tokens, mixed, weights)
    ]
    arguments = (
        *(grad, tokens, mixed, weights, places, *gradients),
        *(*grad.stride()[:2], *tokens.stride()[:2], *mixed.stride()[:2]),
        *(length, channels, mixed.shape[1]),
    )
    constants = {"SOFTMAX": residual == "softmax", **_channels(blocking)}
    launch = _launch("scatter gradients", _scatter_gradient_kernel, batch, length, arguments, constants, blocking)
    return [invert, launch], lambda: gradients


def gather_forward(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.gather_tokens`."""
    launches, output = plan_gather_forward(tokens, indices)
    execute(launches)
    return output


def gather_backward(grad: torch.Tensor, tokens: torch.Tensor, indices: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of the tokens from the gradient of the output."""
    launches, finish = plan_gather_backward(grad, tokens, indices)
    execute(launches)
    return finish()


def scatter_forward(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> torch.Tensor:
    """See `dynamicvis_kernels.scatter_tokens`."""
    launches, output = plan_scatter_forward(tokens, mixed, weights, indices, residual)
    execute(launches)
    return output


def scatter_rows_(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> None:
    """`dynamicvis_kernels.scatter_tokens` in place of ``tokens``, whose rows are dense."""
    launches, _ = plan_scatter_forward(tokens, mixed, weights, indices, residual, out=tokens)
    execute(launches)


def scatter_backward(
    grad: torch.Tensor,
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
) -> list[torch.Tensor]:
    """Gradients of tokens, mixed and weights from the gradient of the output."""
    launches, finish = plan_scatter_backward(grad, tokens, mixed, weights, indices, residual)
    execute(launches)
    return finish()
