"""The causal convolution by torch's own grouped convolution."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def causal_conv_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Both directions; shapes as in `dynamicvis_kernels.causal_conv_silu`."""
    channels, width = weight.shape
    sequence = x.transpose(1, 2)

    def convolve(padding: tuple[int, int], kernel: torch.Tensor) -> torch.Tensor:
        return F.conv1d(F.pad(sequence, padding), kernel[:, None, :], bias, groups=channels).transpose(1, 2)

    forward = convolve((width - 1, 0), weight)
    backward = convolve((0, width - 1), weight.flip(-1))
    return F.silu(torch.stack([forward, backward]))
