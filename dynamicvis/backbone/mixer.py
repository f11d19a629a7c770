"""Bidirectional Mamba mixer with one set of weights for both directions."""

from __future__ import annotations

import math

import torch
from dynamicvis_kernels import causal_conv_silu, selective_scan
from torch import nn
from torch.nn import functional as F

from dynamicvis.backbone.inference import check_floating, is_as_built, register_as_built
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
        default = torch.get_default_dtype()
        rates = torch.arange(1, STATES + 1, dtype=torch.promote_types(default, torch.float32))
        self.A_log = nn.Parameter(rates.log().to(default).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: torch.Tensor, workspace: Workspace | None = None, leading: int = 0) -> torch.Tensor:
        """(batch, length, dim) -> (batch, length, dim), in a buffer of the workspace if there is one.

        What becomes of the first ``leading`` tokens is nobody's concern: with a workspace it is anything.
        """
        A_log = self.A_log
        check_floating("A_log", A_log)
        A = -A_log.exp()
        if workspace is not None:
            from dynamicvis_kernels.streaming import stream_both_ways  # loads numba

            conv1d, dt_proj = self.conv1d, self.dt_proj
            assert conv1d.bias is not None
            x_weight, z_weight = self.in_proj.weight.chunk(2)
            z = workspace.linear("z", tokens, z_weight, leading)
            x = workspace.linear("x", tokens, x_weight)
            y = stream_both_ways(
                x, z, conv1d.weight.squeeze(1), conv1d.bias,
                self.x_proj.weight, dt_proj.weight, dt_proj.bias, A, self.D,
                out=workspace.empty("y", x.shape, x), leading=leading,
            )  # fmt: skip
            return workspace.linear("mixed", y, self.out_proj.weight, leading)
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        u = self._convolve(x)
        low_rank, B, C = self.x_proj(u).split([self.rank, STATES, STATES], dim=-1)
        step = self.dt_proj
        as_built = is_as_built(step) and step.bias is not None
        delta = F.linear(low_rank, step.weight) if as_built else step(low_rank)
        delta_bias = step.bias if as_built else torch.zeros_like(self.D)
        y = selective_scan(u, delta, A, B, C, self.D, z, delta_bias)
        return self.out_proj(y)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, channels) -> convolution and SiLU in both directions, (2, batch, length, channels)."""
        if is_as_built(self.conv1d):
            assert self.conv1d.bias is not None
            return causal_conv_silu(x, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        past = F.pad(x.transpose(1, 2), (CONV_WIDTH - 1, 0))
        future = F.pad(x.transpose(1, 2).flip(-1), (CONV_WIDTH - 1, 0))
        return F.silu(torch.stack([self.conv1d(past), self.conv1d(future).flip(-1)])).transpose(2, 3)


_LAYERS = {
    "in_proj": (nn.Linear, False),
    "x_proj": (nn.Linear, False),
    "out_proj": (nn.Linear, False),
    "dt_proj": (nn.Linear, True),
    "conv1d": (nn.Conv1d, True),
}


def _has_usual_layers(mixer: BidirectionalMamba) -> bool:
    """Whether the layers are of the kinds that the kernels compute, with the biases that they read and no others."""
    layers = mixer._modules
    for name, (kind, biased) in _LAYERS.items():
        layer = layers[name]
        if layer is None or type(layer) is not kind or (layer._parameters.get("bias") is not None) != biased:
            return False
    return True


register_as_built(BidirectionalMamba, _has_usual_layers)
