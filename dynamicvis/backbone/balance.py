"""Load balancing: a loss against routers that look at the same places in every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.hooks import RemovableHandle

from dynamicvis.backbone.block import SelectiveBlock
from dynamicvis.backbone.model import DynamicVis


def balance_loss(weights: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """How unevenly the blocks of one stage share the places of the grid.

    Over all images and blocks, f is the share of the selected tokens that lies in a place, p the mean of the scores
    there, and the loss, as for mixtures of experts, is the number of places times the sum of f p: 1 when all places
    are selected equally often, more where often selected places also score high. The gradient flows through p.

    In distributed runs both are means over all processes, which must have batches of equal size; the gradient is that
    of the own part, as data-parallel averaging wants it.

    Args:
        weights: (batch, places) a block, scores after the softmax.
        indices: (batch, kept) a block, places selected.

    Returns:
        A scalar.

    Source: Fedus et al. 2022, arXiv 2101.03961, equation 4, with places for experts.
    """
    chosen = [torch.zeros_like(w).detach().scatter_(1, i, 1.0) for w, i in zip(weights, indices, strict=True)]
    share = _mean_of_processes(torch.stack(chosen).mean(dim=(0, 1)))
    own = torch.stack(list(weights)).mean(dim=(0, 1))
    score = own + (_mean_of_processes(own.detach()) - own.detach())
    return len(score) * ((share / share.sum()) * score).sum()


class RouterBalance:
    """Collects what the routers of a backbone do in a forward in training mode, for its load-balancing loss.

    Blocks without a router, and blocks that keep every token, are left out. `remove` ends it.

    Args:
        backbone: to watch.

    Raises:
        ValueError: no block of the backbone selects.
    """

    def __init__(self, backbone: DynamicVis) -> None:
        self._scores: dict[SelectiveBlock, Tensor] = {}
        self._selected: dict[SelectiveBlock, Tensor] = {}
        self._stages: list[list[SelectiveBlock]] = []
        self._handles: list[RemovableHandle] = [backbone.register_forward_pre_hook(self._clear)]
        for stage in backbone.stages:
            blocks = [block for block in stage.modules() if isinstance(block, SelectiveBlock)]
            blocks = [block for block in blocks if block.keep_ratio is not None and block.keep_ratio < 1]
            self._stages += [blocks] if blocks else []
            for block in blocks:
                self._handles += self._watch(block)
        if not self._stages:
            raise ValueError("no block of the backbone selects: its keep ratios are 1 or None; drop the balance loss")

    def loss(self) -> Tensor:
        """Mean over the stages of `balance_loss` for the last forward in training mode."""
        return torch.stack(list(self._losses())).mean()

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _losses(self) -> Iterator[Tensor]:
        for blocks in self._stages:
            weights = [self._scores[block].float().softmax(dim=1) for block in blocks]
            yield balance_loss(weights, [self._selected[block] for block in blocks])

    def _clear(self, backbone: nn.Module, inputs: Any) -> None:
        self._scores.clear()
        self._selected.clear()

    def _watch(self, block: SelectiveBlock) -> list[RemovableHandle]:
        def router_hook(router: nn.Module, inputs: Any, logits: Tensor) -> None:
            if block.training and torch.is_grad_enabled():
                self._scores[block] = logits.squeeze(-1)

        def block_hook(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if block.training and torch.is_grad_enabled():
                self._selected[block] = output[1]

        assert block.router is not None
        return [block.router.register_forward_hook(router_hook), block.register_forward_hook(block_hook)]


def _mean_of_processes(values: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()
