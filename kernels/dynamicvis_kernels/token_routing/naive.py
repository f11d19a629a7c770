"""Gathering and scattering tokens by torch's own operators."""

from __future__ import annotations

import torch


def _places(indices: torch.Tensor, channels: int) -> torch.Tensor:
    return indices.unsqueeze(-1).expand(-1, -1, channels)


def gather_tokens(tokens: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Shapes as in `dynamicvis_kernels.gather_tokens`."""
    return tokens.gather(1, _places(indices, tokens.shape[2]))


def scatter_tokens(
    tokens: torch.Tensor, mixed: torch.Tensor, weights: torch.Tensor, indices: torch.Tensor, residual: str
) -> torch.Tensor:
    """Shapes as in `dynamicvis_kernels.scatter_tokens`."""
    base = tokens + weights.unsqueeze(-1) * tokens if residual == "softmax" else tokens
    update = gather_tokens(tokens, indices) + weights.gather(1, indices).unsqueeze(-1) * mixed
    return base.scatter(1, _places(indices, tokens.shape[2]), update)
