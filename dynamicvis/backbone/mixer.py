"""Bidirectional Mamba mixer with one set of weights for both directions."""

from __future__ import annotations

import math

import torch
from dynamicvis_kernels import causal_conv_silu, selective_scan
from torch import nn
from torch.nn import functional as F

from dynamicvis.backbone.workspace import Workspace

STATES = 16
EXPAND = 2
CONV_WIDTH = 4
CHANNELS_PER_RANK = 16


class BidirectionalMamba(nn.Module):
    """Mean of a Mamba mixer run from both ends of a sequence.

    Only the convolution, the step sizes and the scan see the direction. The projections and the gate act on each token
    alone, so they are computed once, and the two directions are averaged before the output projection.

    Args:
        dim: channels of a token.

    Source: arXiv 2312.00752 (Mamba); arXiv 2503.16426, section 3.3 (both directions, mean).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = EXPAND * dim
        self.rank = math.ceil(dim / CHANNELS_PER_RANK)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, CONV_WIDTH, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, STATES + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: torch.Tensor, workspace: Workspace | None = None, leading: int = 0) -> torch.Tensor:
        """(batch, length, dim) -> (batch, length, dim), in a buffer of the workspace if there is one.

        What becomes of the first ``leading`` tokens is nobody's concern: with a workspace it is anything.
        """
        conv_weight, conv_bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        assert conv_bias is not None
        A = -self.A_log.exp()
        if workspace is not None:
            from dynamicvis_kernels.streaming import stream_both_ways  # loads numba

            x_weight, z_weight = self.in_proj.weight.chunk(2)
            z = workspace.linear("z", tokens, z_weight, leading)
            x = workspace.linear("x", tokens, x_weight)
            y = stream_both_ways(
                x, z, conv_weight, conv_bias, self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias, A, self.D,
                out=workspace.empty("y", x.shape, x), leading=leading,
            )  # fmt: skip
            return workspace.linear("mixed", y, self.out_proj.weight, leading)
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        u = causal_conv_silu(x, conv_weight, conv_bias)
        delta, B, C = self.x_proj(u).split([self.rank, STATES, STATES], dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        y = selective_scan(u, delta, A, B, C, self.D, z, self.dt_proj.bias)
        return self.out_proj(y)
