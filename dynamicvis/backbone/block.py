"""The block: score the tokens, mix the best ones, put them back."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from dynamicvis.backbone.mixer import BidirectionalMamba

Residual = Literal["softmax", "identity"]
TokenOrder = Literal["score", "raster"]


class SelectiveBlock(nn.Module):
    """Mix the regions worth looking at, and pass the others by.

    A router scores every token; the best ``keep_ratio`` of them, with global tokens at the head (the mean of each row
    of the grid), go through the mixer and return to their places weighted by their score. Without a router all tokens
    are mixed.

    Args:
        dim: channels of a token.
        keep_ratio: fraction of tokens kept, in (0, 1], or None for a block without a router.
        global_tokens: prepend the row means.
        residual: ``"softmax"`` adds to every token itself times its weight; ``"identity"`` leaves the unselected as
            they are.
        token_order: order in which the selected tokens are scanned, descending ``"score"`` or ``"raster"``.

    Source: arXiv 2503.16426, section 3.3 (selective region-aware mixer).
    """

    def __init__(
        self, dim: int, keep_ratio: float | None, global_tokens: bool, residual: Residual, token_order: TokenOrder
    ) -> None:
        super().__init__()
        self.keep_ratio = keep_ratio
        self.global_tokens = global_tokens
        self.residual = residual
        self.token_order = token_order
        self.router = None if keep_ratio is None else nn.Linear(dim, 1, bias=False)
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = BidirectionalMamba(dim)

    def forward(
        self, tokens: torch.Tensor, grid: tuple[int, int], noise: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mix one grid of tokens.

        Args:
            tokens: (batch, height * width, dim), row by row.
            grid: (height, width).
            noise: scale of the Gumbel noise on the scores; only used in training mode.

        Returns:
            The new tokens, and the indices of the selected ones (batch, kept), or None without a router.
        """
        if self.router is None or self.keep_ratio is None:
            return self._mix(tokens, tokens, grid), None
        logits = self.router(tokens)
        weights = logits.softmax(dim=1)
        indices = self._select(logits.detach().squeeze(-1), noise)
        places = indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        selected = tokens.gather(1, places)
        mixed = self._mix(selected, tokens, grid)
        base = torch.addcmul(tokens, weights, tokens) if self.residual == "softmax" else tokens
        update = torch.addcmul(selected, weights.gather(1, indices.unsqueeze(-1)), mixed)
        return base.scatter(1, places, update), indices

    def _select(self, logits: torch.Tensor, noise: float) -> torch.Tensor:
        assert self.keep_ratio is not None
        if self.training and noise > 0:
            gumbel = -torch.empty_like(logits).exponential_().log()
            logits = logits + noise * gumbel
        # The margin keeps ratios such as 1/3, which floating point holds as slightly less, at their whole count.
        kept = max(1, int(logits.shape[1] * self.keep_ratio + 1e-6))
        indices = logits.topk(kept, dim=1).indices
        return indices.sort(dim=1).values if self.token_order == "raster" else indices

    def _mix(self, selected: torch.Tensor, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        if not self.global_tokens:
            return selected + self.mixer(self.norm(selected))
        rows = tokens.unflatten(1, grid).mean(dim=2)
        sequence = torch.cat([rows, selected], dim=1)
        return selected + self.mixer(self.norm(sequence))[:, grid[0] :]
