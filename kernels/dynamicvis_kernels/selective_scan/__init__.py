"""Bidirectional selective scan."""

from __future__ import annotations

import torch

from dynamicvis_kernels._backend import check_tensors, choose_backend
from dynamicvis_kernels._registration import register_operator
from dynamicvis_kernels.selective_scan import naive

__all__ = ["selective_scan"]

_compiled = register_operator(
    "selective_scan",
    ("u", "delta", "A", "B", "C", "D", "z", "delta_bias"),
    __name__,
    lambda u, delta, A, B, C, D, z, delta_bias: z.shape,
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
        (batch, length, channels), contiguous.

    Raises:
        ValueError: a shape, dtype or device does not fit, or no kernel runs on the device.

    Source: the selective scan of Mamba (arXiv 2312.00752, algorithm 2), twice, as in arXiv 2503.16426, section 3.3.
    """
    if z.ndim != 3 or A.ndim != 2:
        raise ValueError(
            "selective_scan: z must have 3 dimensions (batch, length, channels) and A 2 (channels, states), "
            f"got {z.ndim} and {A.ndim}"
        )
    sequence, states = tuple(z.shape), A.shape[1]
    channels = sequence[2]
    check_tensors(
        "selective_scan",
        {
            "u": (u, (2, *sequence)),
            "delta": (delta, (2, *sequence)),
            "A": (A, (channels, states)),
            "B": (B, (2, *sequence[:2], states)),
            "C": (C, (2, *sequence[:2], states)),
            "D": (D, (channels,)),
            "z": (z, sequence),
            "delta_bias": (delta_bias, (channels,)),
        },
    )
    if choose_backend(u.device) == "naive":
        return naive.selective_scan(u, delta, A, B, C, D, z, delta_bias)
    return _compiled(u, delta, A, B, C, D, z, delta_bias)
