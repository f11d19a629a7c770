"""Tokens to and from the mixer: gather the selected ones, put them back weighted by their scores."""

from __future__ import annotations

import torch

from dynamicvis_kernels._backend import check_tensors, choose_backend, promote_under_autocast, run_in_float32
from dynamicvis_kernels._registration import register_operator
from dynamicvis_kernels.token_routing import naive

__all__ = ["gather_tokens", "scatter_tokens", "scatter_tokens_"]

_RESIDUALS = ("softmax", "identity")

_gather = register_operator(
    "gather_tokens",
    __name__,
    {"tokens": "Tensor", "indices": "Tensor"},
    lambda tokens, indices: (*indices.shape, tokens.shape[2]),
    differentiable=1,
    prefix="gather_",
)
_scatter = register_operator(
    "scatter_tokens",
    __name__,
    {"tokens": "Tensor", "mixed": "Tensor", "weights": "Tensor", "indices": "Tensor", "residual": "str"},
    lambda tokens, mixed, weights, indices, residual: tokens.shape,
    differentiable=3,
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
    backend = _check("gather_tokens", tokens, indices, {}, {})
    if backend == "cpu" and _may_skip_autograd(tokens):
        from dynamicvis_kernels.token_routing import cpu

        return cpu.gather_rows(tokens, indices.contiguous())
    if backend in ("naive", "cpu"):
        return naive.gather_tokens(tokens, indices)
    return _gather(tokens, indices)


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
    backend = _check_scatter("scatter_tokens", tokens, mixed, weights, indices, residual)
    if backend in ("naive", "cpu"):
        return run_in_float32(naive.scatter_tokens, tokens, mixed, weights, indices, residual)
    return _scatter(tokens, mixed, weights, indices, residual)


def scatter_tokens_(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str = "softmax"
) -> torch.Tensor:
    """`scatter_tokens` in place: ``tokens`` are overwritten and returned. Not differentiable.

    Takes what `scatter_tokens` takes, and raises the same.
    """
    backend = _check_scatter("scatter_tokens_", tokens, mixed, weights, indices, residual)
    dense = tokens.stride(-1) == 1
    if backend == "cpu" and tokens.dtype == weights.dtype and _may_skip_autograd(tokens):
        from dynamicvis_kernels.token_routing import cpu

        cpu.scatter_rows_(tokens, mixed, weights, indices.contiguous(), residual)
        return tokens
    if backend in ("triton", "mamba_ssm") and dense:
        from dynamicvis_kernels.token_routing import triton

        triton.scatter_rows_(tokens, mixed, weights, indices, residual)
        return tokens
    return tokens.copy_(scatter_tokens(tokens, mixed, weights, indices, residual))


def _may_skip_autograd(tokens: torch.Tensor) -> bool:
    """Whether the CPU's kernels, which torch does not know of, can take the tokens."""
    return (
        tokens.dtype in (torch.float32, torch.float64)
        and tokens.stride(-1) == 1
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _check_scatter(
    operator: str,
    tokens: torch.Tensor,
    mixed: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    residual: str,
) -> str:
    if residual not in _RESIDUALS:
        raise ValueError(f"{operator}: residual must be one of {', '.join(_RESIDUALS)}, got '{residual}'")
    kept, channels = indices.shape[-1:], tokens.shape[2:]
    return _check(
        operator,
        tokens,
        indices,
        {"mixed": (mixed, (*tokens.shape[:1], *kept, *channels))},
        {"weights": (weights, tuple(tokens.shape[:2]))},
    )


def _check(operator: str, tokens: torch.Tensor, indices: torch.Tensor, sequences: dict, parameters: dict) -> str:
    """Name of the backend for tensors that fit together.

    Raises:
        ValueError: they do not.
    """
    if tokens.ndim != 3 or indices.ndim != 2:
        raise ValueError(
            f"{operator}: tokens must have 3 dimensions (batch, length, channels) and indices 2 (batch, kept), "
            f"got {tokens.ndim} and {indices.ndim}"
        )
    backend = choose_backend(tokens.device)
    check_tensors(operator, backend, {"tokens": (tokens, tuple(tokens.shape)), **sequences}, parameters)
    if indices.dtype != torch.int64 or indices.device != tokens.device or len(indices) != len(tokens):
        raise ValueError(
            f"{operator}: indices must be torch.int64 on {tokens.device} for {len(tokens)} batch elements, "
            f"got {indices.dtype} on {indices.device} for {len(indices)}"
        )
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling() and indices.numel():
        lowest, highest = indices.aminmax()
        if lowest < 0 or highest >= tokens.shape[1]:
            raise ValueError(
                f"{operator}: indices must lie in [0, {tokens.shape[1]}), got {int(lowest)} to {int(highest)}"
            )
    return backend
