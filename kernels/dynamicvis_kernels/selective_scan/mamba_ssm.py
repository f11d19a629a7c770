"""The selective scan by the CUDA kernels of mamba_ssm: a call for each direction, on a flipped copy for the second."""

from __future__ import annotations

import torch
from torch.nn import functional as F


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
    """See `dynamicvis_kernels.selective_scan`; differentiable by mamba_ssm's own autograd."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    rates, skip, bias = A.float(), D.float(), delta_bias.float()

    def scan(direction: int) -> torch.Tensor:
        # mamba_ssm wants (batch, channels or states, length).
        sequences = [tensor[direction].transpose(1, 2) for tensor in (u, delta, B, C)]
        if direction:
            sequences = [sequence.flip(-1) for sequence in sequences]
        x, step, b, c = (sequence.contiguous() for sequence in sequences)
        y = selective_scan_fn(x, step, rates, b, c, skip, z=None, delta_bias=bias, delta_softplus=True)
        return (y.flip(-1) if direction else y).transpose(1, 2).float()

    return (0.5 * (scan(0) + scan(1)) * F.silu(z.float())).to(z.dtype).contiguous()
