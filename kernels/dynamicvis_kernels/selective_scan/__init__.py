"""Bidirectional selective scan."""

from __future__ import annotations

import torch

from dynamicvis_kernels._backend import (
    check_tensors,
    check_type,
    choose_backend,
    promote_under_autocast,
    run_in_float32,
)
from dynamicvis_kernels._registration import register_operator
from dynamicvis_kernels.selective_scan import mamba_ssm, naive

__all__ = ["selective_scan"]


def _check(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> None:
    if z.ndim != 3 or A.ndim != 2:
        raise ValueError(
            "selective_scan: z must have 3 dimensions (batch, length, channels) and A 2 (channels, states), "
            f"got {z.ndim} and {A.ndim}"
        )
    batch, length, channels = z.shape
    states = A.shape[1]
    check_tensors(
        "selective_scan",
        {
            "u": (u, (2, batch, length, channels)),
            "delta": (delta, (2, batch, length, channels)),
            "B": (B, (2, batch, length, states)),
            "C": (C, (2, batch, length, states)),
            "z": (z, z.shape),
        },
        {"A": (A, (channels, states)), "D": (D, (channels,)), "delta_bias": (delta_bias, (channels,))},
    )
    if states == 0:
        raise ValueError("selective_scan: A must have at least one state, got 0")


_compiled = register_operator(
    "selective_scan",
    __name__,
    dict.fromkeys(("u", "delta", "A", "B", "C", "D", "z", "delta_bias"), "Tensor"),
    lambda u, delta, A, B, C, D, z, delta_bias: z.shape,
    differentiable=8,
    check=_check,
)


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> torch.Tensor:
    """Selective scan of a sequence from both ends, averaged and gated.

    With ``d = softplus(delta + delta_bias)``, each direction computes, step by step in its own order,
    ``h = exp(d A) h + d u B`` and ``y = C h + D u``; the result is ``(y_0 + y_1) / 2 * silu(z)``. Index 0 of the
    leading dimension runs from the first position to the last, index 1 from the last to the first; both are stored
    in the order of the sequence, so that nothing is ever flipped. Differentiable in every argument.

    u, delta, B, C and z share one type: float32, float16, bfloat16, or, except in Triton, float64. Beside float16 and
    bfloat16, A, D and delta_bias may each be float32. States, step sizes and all arithmetic are float32 or wider
    whatever the types. Under `torch.autocast`, u, delta, B, C and z are first promoted to the widest of their types,
    and A, D and delta_bias to a type that holds it.

    Args:
        u: input, (2, batch, length, channels).
        delta: step size before bias and softplus, (2, batch, length, channels).
        A: decay rates, negative, (channels, states).
        B: input weights, (2, batch, length, states).
        C: output weights, (2, batch, length, states).
        D: skip weights, (channels,).
        z: gate before SiLU, (batch, length, channels).
        delta_bias: (channels,).

    Returns:
        (batch, length, channels), contiguous, of the type of u.

    Raises:
        ValueError: a shape, dtype or device does not fit, or no kernel runs on the device.

    Source: the selective scan of Mamba (arXiv 2312.00752, algorithm 2), twice, as in arXiv 2503.16426, section 3.3.
    """
    u, delta, B, C, z, A, D, delta_bias = promote_under_autocast([u, delta, B, C, z], [A, D, delta_bias])
    backend = choose_backend(u.device)
    if backend in ("naive", "mamba_ssm"):
        check_type("selective_scan", backend, "u", u)
        _check(u, delta, A, B, C, D, z, delta_bias)
    if backend == "naive":
        return run_in_float32(naive.selective_scan, u, delta, A, B, C, D, z, delta_bias)
    if backend == "mamba_ssm":
        return mamba_ssm.selective_scan(u, delta, A, B, C, D, z, delta_bias)
    return _compiled(u, delta, A, B, C, D, z, delta_bias)
