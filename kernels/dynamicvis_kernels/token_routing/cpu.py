"""Scores, gather and scatter of tokens on the CPU.

For inference each is one walk over the tokens. The registered operators are torch's own operations: a graph that was
exported for a GPU calls them when it runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._checks import check_arguments, check_indices, name_dimensions
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    Variant,
    describe_sequence,
    load_parameter,
    refuse,
    row_stride,
    run,
    sequence_start,
    store_parameter,
    work,
)
from dynamicvis_kernels._simd import BYTES, lane_count, load, load_scalar, splat, store, store_scalar, total
from dynamicvis_kernels.token_routing import naive

_ROWS = 64  # rows of one task

_COUNT, _CHANNELS, _INDICES, _INDEXED = range(HEADER, HEADER + 4)
_FROM, _TO = range(HEADER + 4, HEADER + 4 + 2 * SEQUENCE, SEQUENCE)
_WEIGHTS, _ALL_SCALED, _ADD_OWN, _PART, _NEXT_ROUTER, _NEXT_SCORES, _NEXT_MEANS = range(
    _TO + SEQUENCE, _TO + SEQUENCE + 7
)
_LENGTH, _KEPT, _SELECTED, _PLACES = range(HEADER, HEADER + 4)
_GRID_HEIGHT, _GRID_WIDTH, _GRID_CHANNELS, _ROUTER, _SCORES = range(HEADER, HEADER + 5)
_TOKENS, _MEANS = range(HEADER + 5, HEADER + 5 + 2 * SEQUENCE, SEQUENCE)


@njit(error_model="numpy")
def _score_task(p, task, slot, like):
    """Scores of the tokens in one row of the grid, and their mean."""
    lanes = lane_count(like)
    scalar, zero = BYTES // lanes, splat(0.0, like)
    height, width = load_parameter(p, _GRID_HEIGHT), load_parameter(p, _GRID_WIDTH)
    channels, router = load_parameter(p, _GRID_CHANNELS), load_parameter(p, _ROUTER)
    stride = row_stride(p, _TOKENS)
    batch, row = task // height, task % height
    tokens = sequence_start(p, _TOKENS, 0, batch) + row * width * stride
    mean = sequence_start(p, _MEANS, 0, batch) + row * row_stride(p, _MEANS)
    scores = load_parameter(p, _SCORES) + task * width * scalar
    for c in range(0, channels, lanes):
        store(mean + c * scalar, min(lanes, channels - c), zero)
    # Four tokens at once share each load of the router and of the sums.
    for t in range(0, width - 3, 4):
        token, s0, s1, s2, s3 = tokens + t * stride, zero, zero, zero, zero
        for c in range(0, channels, lanes):
            at, active = c * scalar, min(lanes, channels - c)
            w = load(router + at, active, like)
            v0, v1 = load(token + at, active, like), load(token + stride + at, active, like)
            v2, v3 = load(token + 2 * stride + at, active, like), load(token + 3 * stride + at, active, like)
            s0 = s0 + v0 * w
            s1 = s1 + v1 * w
            s2 = s2 + v2 * w
            s3 = s3 + v3 * w
            store(mean + at, active, load(mean + at, active, like) + ((v0 + v1) + (v2 + v3)))
        store_scalar(scores + t * scalar, total(s0))
        store_scalar(scores + (t + 1) * scalar, total(s1))
        store_scalar(scores + (t + 2) * scalar, total(s2))
        store_scalar(scores + (t + 3) * scalar, total(s3))
    for t in range(width - width % 4, width):
        token, score = tokens + t * stride, zero
        for c in range(0, channels, lanes):
            at, active = c * scalar, min(lanes, channels - c)
            value = load(token + at, active, like)
            score = score + value * load(router + at, active, like)
            store(mean + at, active, load(mean + at, active, like) + value)
        store_scalar(scores + t * scalar, total(score))
    for c in range(0, channels, lanes):
        at, active = c * scalar, min(lanes, channels - c)
        store(mean + at, active, load(mean + at, active, like) / splat(width, like))


@njit(error_model="numpy")
def _gather_task(p, task, slot, like):
    lanes = lane_count(like)
    count, channels = load_parameter(p, _COUNT), load_parameter(p, _CHANNELS)
    parts = (count + _ROWS - 1) // _ROWS
    batch, start = task // parts, (task % parts) * _ROWS
    for k in range(start, min(start + _ROWS, count)):
        index = load_parameter(load_parameter(p, _INDICES), batch * count + k)
        if index < 0 or index >= load_parameter(p, _INDEXED):
            refuse(p)
            continue
        source = sequence_start(p, _FROM, 0, batch) + index * row_stride(p, _FROM)
        target = sequence_start(p, _TO, 0, batch) + k * row_stride(p, _TO)
        for c in range(0, channels, lanes):
            width = min(lanes, channels - c)
            at = c // lanes * BYTES
            store(target + at, width, load(source + at, width, like))


@njit(error_model="numpy")
def _place_task(p, task, slot, like):
    """places[indices[k]] = k, and -1 elsewhere, of one batch element."""
    length, kept = load_parameter(p, _LENGTH), load_parameter(p, _KEPT)
    places = load_parameter(p, _PLACES) + task * length * 8
    for n in range(length):
        store_parameter(places, n, -1)
    for k in range(kept):
        index = load_parameter(load_parameter(p, _SELECTED), task * kept + k)
        if index < 0 or index >= length:
            refuse(p)
        else:
            store_parameter(places, index, k)


@njit(error_model="numpy")
def _scatter_task(p, task, slot, like):
    """to[n] += weight[n] * from[index[n]], and the row's own times its weight where asked or the index is negative.

    With a router a task is one row of the grid, and gives the scores of its new tokens and their mean.
    """
    lanes = lane_count(like)
    scalar = BYTES // lanes
    count, channels = load_parameter(p, _COUNT), load_parameter(p, _CHANNELS)
    all_scaled, add_own = load_parameter(p, _ALL_SCALED), load_parameter(p, _ADD_OWN)
    part, router = load_parameter(p, _PART), load_parameter(p, _NEXT_ROUTER)
    parts = (count + part - 1) // part
    batch, start, mean = task // parts, (task % parts) * part, 0
    if router:
        mean = sequence_start(p, _NEXT_MEANS, 0, batch) + (task % parts) * row_stride(p, _NEXT_MEANS)
        for c in range(0, channels, lanes):
            store(mean + c * scalar, min(lanes, channels - c), splat(0.0, like))
    for n in range(start, min(start + part, count)):
        index = load_parameter(load_parameter(p, _INDICES), batch * count + n)
        changed = index >= 0 or all_scaled
        if not changed and not router:
            continue
        place = (batch * count + n) * scalar
        weight = load_scalar(load_parameter(p, _WEIGHTS) + place, like)
        target = sequence_start(p, _TO, 0, batch) + n * row_stride(p, _TO)
        source = target if index < 0 else sequence_start(p, _FROM, 0, batch) + index * row_stride(p, _FROM)
        twice, score = add_own and index >= 0, splat(0.0, like)
        for c in range(0, channels, lanes):
            at, width = c * scalar, min(lanes, channels - c)
            value = load(target + at, width, like)
            if changed:
                added = load(source + at, width, like)
                if twice:
                    added = added + value
                value = value + added * weight
                store(target + at, width, value)
            if router:
                score = score + value * load(router + at, width, like)
                store(mean + at, width, load(mean + at, width, like) + value)
        if router:
            store_scalar(load_parameter(p, _NEXT_SCORES) + place, total(score))
    if router:
        for c in range(0, channels, lanes):
            at, width = c * scalar, min(lanes, channels - c)
            store(mean + at, width, load(mean + at, width, like) / splat(part, like))


def _score_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _score_task, variant)

    return kernel


def _gather_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _gather_task, variant)

    return kernel


def _place_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _place_task, variant)

    return kernel


def _scatter_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _scatter_task, variant)

    return kernel


def score_rows(tokens: torch.Tensor, router: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Scores of the tokens, and into ``means`` the mean of each row of the grid. Not differentiable.

    Args:
        tokens: (batch, height * width, channels), float32 or float64, on the CPU, rows dense.
        router: (channels,), of the same type.
        means: (batch, height, channels), of the same type, rows dense.

    Returns:
        (batch, height * width), the product of each token with the router.

    Raises:
        ValueError: a shape, type, device or stride does not fit, or a gradient is asked for.
    """
    if tokens.ndim != 3 or means.ndim != 3:
        name_dimensions("score_rows", tokens=(tokens, 3), means=(means, 3))
    batch, length, channels = tokens.shape
    height = means.shape[1]
    _check_grid("score_rows", length, height)
    expected = {
        "tokens": (tokens, tokens.shape),
        "router": (router, (channels,)),
        "means": (means, (batch, height, channels)),
    }
    check_arguments("score_rows", tokens, expected, dense=(tokens,), written=(means,))
    router = router.contiguous()
    scores = tokens.new_empty(batch, length)
    parameters = [height, length // height, channels, router.data_ptr(), scores.data_ptr()]
    parameters += [*describe_sequence(tokens), *describe_sequence(means)]
    run(_score_kernel, tokens.dtype, batch * height, parameters)
    return scores


def gather_rows(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """`gather_tokens` without gradient; rows are dense, indices contiguous.

    Raises:
        ValueError: a shape, type, device or stride does not fit, an index lies outside, or a gradient is asked for.
    """
    if tokens.ndim != 3:
        name_dimensions("gather_rows", tokens=(tokens, 3))
    check_arguments("gather_rows", tokens, {"tokens": (tokens, tokens.shape)}, dense=(tokens,))
    batch, length, channels = tokens.shape
    check_indices("gather_rows", indices, batch)
    count = indices.shape[1]
    out = tokens.new_empty(batch, count, channels)
    parameters = [count, channels, indices.data_ptr(), length, *describe_sequence(tokens), *describe_sequence(out)]
    run(_gather_kernel, tokens.dtype, batch * -(-count // _ROWS), parameters)
    return out


def scatter_rows_(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> None:
    """`scatter_tokens` in place of ``tokens``, whose rows are dense; indices are contiguous and distinct.

    Raises:
        ValueError: a shape, type, device or stride does not fit, an index lies outside, or a gradient is asked for.
    """
    _scatter("scatter_rows_", tokens, mixed, weights, indices, residual, add_own=False, router=None, means=None)


def add_rows_(
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
    router: torch.Tensor | None,
    means: torch.Tensor,
) -> torch.Tensor | None:
    """`scatter_rows_` of mixed tokens that lack what they were before, and in the same walk `score_rows` of the result.

    Args:
        tokens, mixed, weights, indices, residual: as of `scatter_rows_`.
        router, means: as of `score_rows`; without a router, the means are not written.

    Returns:
        The scores, or None without a router.

    Raises:
        ValueError: as of `scatter_rows_` and `score_rows`.
    """
    return _scatter("add_rows_", tokens, mixed, weights, indices, residual, add_own=True, router=router, means=means)


def _scatter(
    operator: str,
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
    add_own: bool,
    router: torch.Tensor | None,
    means: torch.Tensor | None,
) -> torch.Tensor | None:
    if tokens.ndim != 3 or (means is not None and means.ndim != 3):
        name_dimensions(operator, tokens=(tokens, 3), **({} if means is None else {"means": (means, 3)}))
    batch, length, channels = tokens.shape
    check_indices(operator, indices, batch)
    kept = indices.shape[1]
    expected = {
        "tokens": (tokens, tokens.shape),
        "mixed": (mixed, (batch, kept, channels)),
        "weights": (weights, (batch, length)),
    }
    written = [tokens]
    if router is not None and means is not None:
        _check_grid(operator, length, means.shape[1])
        expected["router"] = (router, (channels,))
        expected["means"] = (means, (batch, means.shape[1], channels))
        written.append(means)
    check_arguments(operator, tokens, expected, written=tuple(written))
    mixed, weights = row_contiguous(mixed), weights.contiguous()
    places = indices.new_empty(batch, length)
    run(_place_kernel, tokens.dtype, batch, [length, kept, indices.data_ptr(), places.data_ptr()])
    scores, part, scoring = None, _ROWS, [0]
    if router is not None and means is not None:
        router, scores, part = router.contiguous(), weights.new_empty(batch, length), length // means.shape[1]
        scoring = [router.data_ptr(), scores.data_ptr(), *describe_sequence(means)]
    parameters = [length, channels, places.data_ptr(), 0, *describe_sequence(mixed), *describe_sequence(tokens)]
    parameters += [weights.data_ptr(), residual == "softmax", add_own, part, *scoring]
    run(_scatter_kernel, tokens.dtype, batch * -(-length // part), parameters)
    return scores


def _check_grid(operator: str, length: int, height: int) -> None:
    if height < 1 or length % height or not length:
        raise ValueError(f"{operator}: {length} tokens are no grid of {height} rows, one for each mean")


def gather_forward(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.gather_tokens`."""
    return naive.gather_tokens(tokens, indices)


def gather_backward(grad: torch.Tensor, tokens: torch.Tensor, indices: torch.Tensor) -> list[torch.Tensor]:
    """Gradient of the tokens from the gradient of the output."""
    places = indices.unsqueeze(-1).expand(grad.shape)
    return [tokens.new_zeros(tokens.shape).scatter_add_(1, places, grad)]


def scatter_forward(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> torch.Tensor:
    """See `dynamicvis_kernels.scatter_tokens`."""
    return naive.scatter_tokens(tokens, mixed, weights, indices, residual).contiguous()


def scatter_backward(
    grad: torch.Tensor,
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
) -> list[torch.Tensor]:
    """Gradients of tokens, mixed and weights from the gradient of the output."""
    selected = naive.gather_tokens(grad, indices)
    grad_mixed = weights.gather(1, indices).unsqueeze(-1) * selected
    grad_tokens, grad_weights = grad, torch.zeros_like(weights)
    if residual == "softmax":
        scaled = grad + weights.unsqueeze(-1) * grad
        grad_tokens = scaled.scatter(1, indices.unsqueeze(-1).expand(selected.shape), selected)
        grad_weights = (grad * tokens).sum(-1)
    grad_weights = grad_weights.scatter(1, indices, (selected * mixed).sum(-1))
    return [grad_tokens.clone(), grad_mixed, grad_weights]
