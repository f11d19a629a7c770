"""Tokens to and from the mixer: gather the selected ones, put them back weighted by their scores."""

from __future__ import annotations

import torch

from dynamicvis_kernels._backend import (
    check_tensors,
    check_type,
    choose_backend,
    is_followed,
    lies_in_memory,
    promote_under_autocast,
    run_in_float32,
)
from dynamicvis_kernels._checks import overlaps_itself
from dynamicvis_kernels._registration import register_operator
from dynamicvis_kernels.token_routing import naive

__all__ = ["gather_tokens", "scatter_tokens", "scatter_tokens_"]

_RESIDUALS = ("softmax", "identity")


def _check_gather(tokens: torch.Tensor, indices: torch.Tensor) -> None:
    _check("gather_tokens", tokens, indices, {}, {})


def _check_scatter(
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
    operator: str = "scatter_tokens",
) -> None:
    if residual not in _RESIDUALS:
        raise ValueError(f"{operator}: residual must be one of {', '.join(_RESIDUALS)}, got '{residual}'")
    kept, channels = indices.shape[-1:], tokens.shape[2:]
    _check(
        operator,
        tokens,
        indices,
        {"mixed": (mixed, (*tokens.shape[:1], *kept, *channels))},
        {"weights": (weights, tuple(tokens.shape[:2]))},
    )


def _check(operator: str, tokens: torch.Tensor, indices: torch.Tensor, sequences: dict, parameters: dict) -> None:
    """Raises ValueError where tensors do not fit together."""
    if tokens.ndim != 3 or indices.ndim != 2:
        raise ValueError(
            f"{operator}: tokens must have 3 dimensions (batch, length, channels) and indices 2 (batch, kept), "
            f"got {tokens.ndim} and {indices.ndim}"
        )
    check_tensors(operator, {"tokens": (tokens, tuple(tokens.shape)), **sequences}, parameters)
    if indices.dtype != torch.int64 or indices.device != tokens.device or len(indices) != len(tokens):
        raise ValueError(
            f"{operator}: indices must be torch.int64 on {tokens.device} for {len(tokens)} batch elements, "
            f"got {indices.dtype} on {indices.device} for {len(indices)}"
        )
    if not is_followed() and lies_in_memory(indices) and indices.is_cpu and indices.numel():
        lowest, highest = indices.aminmax()
        if lowest < 0 or highest >= tokens.shape[1]:
            raise ValueError(
                f"{operator}: indices must lie in [0, {tokens.shape[1]}), got {int(lowest)} to {int(highest)}"
            )


_gather = register_operator(
    "gather_tokens",
    __name__,
    {"tokens": "Tensor", "indices": "Tensor"},
    lambda tokens, indices: (*indices.shape, tokens.shape[2]),
    differentiable=1,
    check=_check_gather,
    prefix="gather_",
)
_scatter = register_operator(
    "scatter_tokens",
    __name__,
    {"tokens": "Tensor", "mixed": "Tensor", "weights": "Tensor", "indices": "Tensor", "residual": "str"},
    lambda tokens, mixed, weights, indices, residual: tokens.shape,
    differentiable=3,
    check=_check_scatter,
    prefix="scatter_",
)


def gather_tokens(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The selected tokens, in the order of their indices. Differentiable in the tokens.

    Args:
        tokens: (batch, length, channels), float32, float16, bfloat16, or, except in Triton, float64.
        indices: (batch, kept), int64, in [0, length), distinct within a batch element. On a GPU, where a check would
            wait for the device, an index outside gives a row of zeros.

    Returns:
        (batch, kept, channels), contiguous.

    Raises:
        ValueError: a shape, dtype or device does not fit, no kernel runs on the device, or, on the CPU, an index lies
            outside.
    """
    backend = choose_backend(tokens.device)
    if backend not in ("naive", "cpu"):
        return _gather(tokens, indices)
    check_type("gather_tokens", backend, "tokens", tokens)
    _check_gather(tokens, indices)
    if backend == "cpu" and _may_skip_autograd(tokens):
        from dynamicvis_kernels.token_routing import cpu

        return cpu.gather_rows(tokens, indices.contiguous())
    return naive.gather_tokens(tokens, indices)


def scatter_tokens(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str = "softmax"
) -> torch.Tensor:
    """Put the mixed tokens back, weighted. Differentiable in tokens, mixed and weights.

    ``out[indices[k]] = tokens[indices[k]] + weights[indices[k]] mixed[k]`` for the selected tokens. The others become
    ``(1 + weights[n]) tokens[n]`` with the residual ``"softmax"``, and stay as they are with ``"identity"``.

    tokens and mixed share one type: float32, float16, bfloat16, or, except in Triton, float64; beside float16 and
    bfloat16 the weights may be float32. Arithmetic is float32 or wider. Under `torch.autocast`, tokens and mixed are
    first promoted to the wider of their types, and the weights to a type that holds it.

    Args:
        tokens: (batch, length, channels).
        mixed: the selected tokens after mixing, (batch, kept, channels).
        weights: (batch, length).
        indices: (batch, kept), int64, in [0, length), distinct within a batch element. On a GPU, where a check would
            wait for the device, a row whose index lies outside is left out.
        residual: ``"softmax"`` or ``"identity"``.

    Returns:
        (batch, length, channels), contiguous.

    Raises:
        ValueError: a shape, dtype or device does not fit, the residual is unknown, no kernel runs on the device, or, on
            the CPU, an index lies outside.

    Source: arXiv 2503.16426, section 3.3 (selective region-aware mixer).
    """
    tokens, mixed, weights = promote_under_autocast([tokens, mixed], [weights])
    backend = choose_backend(tokens.device)
    if backend not in ("naive", "cpu"):
        return _scatter(tokens, mixed, weights, indices, residual)
    check_type("scatter_tokens", backend, "tokens", tokens)
    _check_scatter(tokens, mixed, weights, indices, residual)
    return run_in_float32(naive.scatter_tokens, tokens, mixed, weights, indices, residual)


def scatter_tokens_(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str = "softmax"
) -> torch.Tensor:
    """`scatter_tokens` in place: ``tokens`` are overwritten and returned. Not differentiable.

    Takes what `scatter_tokens` takes, and raises the same; and ValueError where elements of tokens share memory, or a
    gradient is required.
    """
    backend = choose_backend(tokens.device)
    check_type("scatter_tokens_", backend, "tokens", tokens)
    _check_scatter(tokens, mixed, weights, indices, residual, "scatter_tokens_")
    if overlaps_itself(tokens):
        raise ValueError(
            "scatter_tokens_: tokens must have memory of their own for each element, "
            f"got {tuple(tokens.shape)} with strides {tokens.stride()}"
        )
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (tokens, mixed, weights)):
        raise ValueError("scatter_tokens_ has no gradient, but one is required: use scatter_tokens")
    dense = tokens.stride(-1) == 1
    shared = not is_followed() and any(torch._C._overlaps(tokens, tensor) for tensor in (mixed, weights))
    if backend == "cpu" and not shared and tokens.dtype == weights.dtype and _may_skip_autograd(tokens, mixed, weights):
        from dynamicvis_kernels.token_routing import cpu

        cpu.scatter_rows_(tokens, mixed, weights, indices.contiguous(), residual)
    elif backend in ("triton", "mamba_ssm") and dense and not shared and not is_followed():
        from dynamicvis_kernels.token_routing import triton

        triton.scatter_rows_(tokens, mixed, weights, indices, residual)
    else:
        return tokens.copy_(scatter_tokens(tokens, mixed, weights, indices, residual))
    if not tokens.is_inference():
        torch.autograd.graph.increment_version(tokens)  # torch does not know of these kernels
    return tokens


def _may_skip_autograd(tokens: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the CPU's kernels, which torch does not know of, can take the tokens."""
    return (
        tokens.dtype in (torch.float32, torch.float64)
        and tokens.stride(-1) == 1
        and not torch.is_grad_enabled()
        and not is_followed()
        and all(lies_in_memory(tensor) for tensor in (tokens, *others))
    )
