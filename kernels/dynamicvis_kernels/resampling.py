"""Resampled maps added to tokens, for inference on the CPU: what is added never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._checks import check_arguments, name_dimensions
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    Variant,
    describe_sequence,
    load_parameter,
    row_stride,
    run,
    sequence_start,
    thread_count,
    work,
)
from dynamicvis_kernels._simd import BYTES, lane_count, load, load_scalar, splat, store

_HEIGHT, _WIDTH, _OLD_WIDTH, _CHANNELS, _SCRATCH, _SCRATCH_SLOT = range(HEADER, HEADER + 6)
_VERTICAL, _HORIZONTAL = HEADER + 6, HEADER + 9  # each: starts, weights, number of weights
_TOKENS, _MAP = range(HEADER + 12, HEADER + 12 + 2 * SEQUENCE, SEQUENCE)


@njit(error_model="numpy")
def _add_task(p, task, slot, like):
    """One row of the grid: the rows of the map around it are mixed, then the columns of the mixture."""
    lanes = lane_count(like)
    scalar, zero = BYTES // lanes, splat(0.0, like)
    height, width, old_width = load_parameter(p, _HEIGHT), load_parameter(p, _WIDTH), load_parameter(p, _OLD_WIDTH)
    channels = load_parameter(p, _CHANNELS)
    batch, row = task // height, task % height
    size = (channels + lanes - 1) // lanes * BYTES
    mixture = load_parameter(p, _SCRATCH) + slot * load_parameter(p, _SCRATCH_SLOT)
    first, count = load_parameter(load_parameter(p, _VERTICAL), row), load_parameter(p, _VERTICAL + 2)
    weights = load_parameter(p, _VERTICAL + 1) + row * count * scalar
    step = old_width * row_stride(p, _MAP)
    for column in range(old_width):
        source = sequence_start(p, _MAP, 0, 0) + first * step + column * row_stride(p, _MAP)
        for c in range(0, channels, lanes):
            at, active, value = c * scalar, min(lanes, channels - c), zero
            for k in range(count):
                value = value + load(source + k * step + at, active, like) * load_scalar(weights + k * scalar, like)
            store(mixture + column * size + at, lanes, value)
    count = load_parameter(p, _HORIZONTAL + 2)
    for column in range(width):
        source = mixture + load_parameter(load_parameter(p, _HORIZONTAL), column) * size
        weights = load_parameter(p, _HORIZONTAL + 1) + column * count * scalar
        token = sequence_start(p, _TOKENS, 0, batch) + (row * width + column) * row_stride(p, _TOKENS)
        for c in range(0, channels, lanes):
            at, active = c * scalar, min(lanes, channels - c)
            value = load(token + at, active, like)
            for k in range(count):
                value = value + load(source + k * size + at, lanes, like) * load_scalar(weights + k * scalar, like)
            store(token + at, active, value)


def _add_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _add_task, variant)

    return kernel


def add_resampled_(
    tokens: torch.Tensor, maps: torch.Tensor, vertical: torch.Tensor, horizontal: torch.Tensor
) -> torch.Tensor:
    """Resample a map to the tokens' grid along rows and columns, and add it to the tokens. Not differentiable.

    Args:
        tokens: (batch, new height * new width, channels), float32 or float64, on the CPU, rows dense.
        maps: (1, height, width, channels), of the same type.
        vertical, horizontal: (new height, height) and (new width, width), of the same type: the share of each row or
            column of the map in a new one. Few neighbours have a share; the time grows with their number.

    Returns:
        ``tokens``.

    Raises:
        ValueError: a shape, type, device or stride does not fit, or a gradient is asked for.
    """
    name = "add_resampled_"
    if (tokens.ndim, maps.ndim, vertical.ndim, horizontal.ndim) != (3, 4, 2, 2):
        name_dimensions(name, tokens=(tokens, 3), maps=(maps, 4), vertical=(vertical, 2), horizontal=(horizontal, 2))
    batch, _, channels = tokens.shape
    _, height, width, _ = maps.shape
    rows, columns = vertical.shape[0], horizontal.shape[0]
    expected = {
        "tokens": (tokens, (batch, rows * columns, channels)),
        "maps": (maps, (1, height, width, channels)),
        "vertical": (vertical, (rows, height)),
        "horizontal": (horizontal, (columns, width)),
    }
    check_arguments(name, tokens, expected, written=(tokens,))
    if not tokens.numel() or not maps.numel():
        return tokens
    flat = row_contiguous(maps.flatten(1, 2))
    lanes = BYTES // tokens.element_size()
    (row_starts, row_weights), (column_starts, column_weights) = _neighbours(vertical), _neighbours(horizontal)
    mixture = -(-channels // lanes) * lanes * width
    scratch = tokens.new_empty(thread_count(batch * rows), mixture)
    parameters = [rows, columns, width, channels]
    parameters += [scratch.data_ptr(), mixture * scratch.element_size()]
    parameters += [row_starts.data_ptr(), row_weights.data_ptr(), row_weights.shape[1]]
    parameters += [column_starts.data_ptr(), column_weights.data_ptr(), column_weights.shape[1]]
    parameters += [*describe_sequence(tokens), *describe_sequence(flat)]
    run(_add_kernel, tokens.dtype, batch * rows, parameters, slots=scratch.shape[0])
    return tokens


def _neighbours(shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of a matrix where its elements other than zero start, (rows,), and them, (rows, most of any row)."""
    present, columns = shares != 0, torch.arange(shares.shape[1], device=shares.device)
    first = torch.where(present, columns, len(columns)).amin(1)
    last = torch.where(present, columns, -1).amax(1)
    count = max(1, int((last - first).max()) + 1)
    starts = first.clamp(max=len(columns) - count)
    return starts, shares.gather(1, starts[:, None] + torch.arange(count, device=shares.device))
