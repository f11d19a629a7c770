"""The selective scan as its definition reads: one step after the other."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def _scan(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """One direction: u, delta (batch, length, channels); B, C (batch, length, states) -> (batch, length, channels)."""
    state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


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
    """Both directions, mean and gate; shapes as in `dynamicvis_kernels.selective_scan`."""
    delta = F.softplus(delta + delta_bias)
    forward = _scan(u[0], delta[0], A, B[0], C[0], D)
    backward = _scan(u[1].flip(1), delta[1].flip(1), A, B[1].flip(1), C[1].flip(1), D).flip(1)
    return 0.5 * (forward + backward) * F.silu(z)
