"""The block: score the tokens, mix the best ones, put them back."""

from __future__ import annotations

from typing import Literal

import torch
from dynamicvis_kernels import gather_tokens, scatter_tokens
from torch import nn

from dynamicvis.backbone.inference import register_as_built
from dynamicvis.backbone.mixer import BidirectionalMamba
from dynamicvis.backbone.workspace import Workspace

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
        drop_path: probability, in [0, 1), that what the mixer adds is left out in training, drawn for each image.

    Source: arXiv 2503.16426, section 3.3 (selective region-aware mixer).
    """

    def __init__(
        self,
        dim: int,
        keep_ratio: float | None,
        global_tokens: bool,
        residual: Residual,
        token_order: TokenOrder,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.keep_ratio = keep_ratio
        self.global_tokens = global_tokens
        self.residual = residual
        self.token_order = token_order
        self.drop_path = drop_path
        self.router = None if keep_ratio is None else nn.Linear(dim, 1, bias=False)
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = BidirectionalMamba(dim)

    def forward(
        self,
        tokens: torch.Tensor,
        grid: tuple[int, int],
        noise: float = 0.0,
        workspace: Workspace | None = None,
        following: SelectiveBlock | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mix one grid of tokens.

        Args:
            tokens: (batch, height * width, dim), row by row.
            grid: (height, width).
            noise: scale of the Gumbel noise on the scores; only used in training mode.
            workspace: memory to work in; with it ``tokens`` are overwritten with the result.
            following: with a workspace, the block that comes next on the same grid; its scores are computed on the way.

        Returns:
            The new tokens, and the indices of the selected ones (batch, kept), or None without a router.
        """
        if workspace is not None:
            return self._forward_in_place(tokens, grid, noise, workspace, following)
        indices = weights = None
        if self.router is not None:
            logits = self.router(tokens).squeeze(-1)
            weights = logits.softmax(dim=1)
            indices = self._select(logits.detach(), noise)
        selected = tokens if indices is None else gather_tokens(tokens, indices)
        sequence = selected
        if self.global_tokens:
            sequence = torch.cat([tokens.unflatten(1, grid).mean(dim=2), selected], dim=1)
        if torch.is_autocast_enabled(sequence.device.type):
            sequence = sequence.float()  # torch leaves this norm in the type of its input
        mixed = selected + self._thin_out(self.mixer(self.norm(sequence))[:, -selected.shape[1] :])
        if indices is None or weights is None:
            return mixed, None
        return scatter_tokens(tokens, mixed, weights, indices, self.residual), indices

    def _thin_out(self, update: torch.Tensor) -> torch.Tensor:
        """Stochastic depth: in training, the update of whole images is 0 at random, and the others' larger for it."""
        if not self.training or not self.drop_path:
            return update
        kept = update.new_empty(len(update), 1, 1).bernoulli_(1 - self.drop_path)
        return update * (kept / (1 - self.drop_path))

    def _kept(self, length: int) -> int:
        """How many tokens of a grid go through the mixer."""
        if self.keep_ratio is None:
            return length
        # The margin keeps ratios such as 1/3, which floating point holds as slightly less, at their whole count.
        return max(1, int(length * self.keep_ratio + 1e-6))

    def _select(self, logits: torch.Tensor, noise: float) -> torch.Tensor:
        if self.training and noise > 0:
            gumbel = -torch.empty_like(logits).exponential_().log()
            logits = logits + noise * gumbel
        indices = logits.topk(self._kept(logits.shape[1]), dim=1).indices
        return indices.sort(dim=1).values if self.token_order == "raster" else indices

    def _forward_in_place(
        self,
        tokens: torch.Tensor,
        grid: tuple[int, int],
        noise: float,
        workspace: Workspace,
        following: SelectiveBlock | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # Imported at the point of use: these load numba.
        from dynamicvis_kernels.normalization import rms_norm
        from dynamicvis_kernels.token_routing.cpu import add_rows_, score_rows

        batch, length, dim = tokens.shape
        rows = grid[0] if self.global_tokens else 0
        sequence = workspace.empty("sequence", (batch, rows + self._kept(length), dim), tokens)
        means = workspace.empty("means", (batch, grid[0], dim), tokens)
        logits, workspace.scores = workspace.scores, None
        router, norm = self.router, self.norm
        if router is None:
            if self.global_tokens:
                torch.mean(tokens.unflatten(1, grid), dim=2, out=means)
        elif logits is None:
            logits = score_rows(tokens, router.weight[0], means)
        indices = None if logits is None else self._select(logits, noise)
        weight, eps = norm.weight, norm.eps
        assert eps is not None
        if self.global_tokens:
            rms_norm(means, weight, eps, sequence[:, :rows])
        rms_norm(tokens, weight, eps, sequence[:, rows:], indices)
        mixed = self._thin_out(self.mixer(sequence, workspace, leading=rows)[:, rows:])
        if logits is None or indices is None:
            return tokens.add_(mixed), None
        next_router = None if following is None else following.router
        scored_by = None if next_router is None else next_router.weight[0]
        workspace.scores = add_rows_(tokens, mixed, logits.softmax(dim=1), indices, self.residual, scored_by, means)
        return tokens, indices


def _has_usual_layers(block: SelectiveBlock) -> bool:
    """Whether mixer and norm are of the kinds that the kernels compute, and the router, if any, one bare vector."""
    layers, router = block._modules, block.router
    if type(layers["norm"]) is not nn.RMSNorm or type(layers["mixer"]) is not BidirectionalMamba:
        return False
    if router is None:
        return True
    weight = router._parameters.get("weight")
    one_vector = weight is not None and weight.shape[0] == 1 and router._parameters.get("bias") is None
    return type(router) is nn.Linear and one_vector


register_as_built(SelectiveBlock, _has_usual_layers)
