"""Load balancing: a loss against routers that look at the same places in every image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.hooks import RemovableHandle

from dynamicvis.backbone.block import SelectiveBlock
from dynamicvis.backbone.model import DynamicVis


def balance_loss(logits: Sequence[Tensor], keep_ratio: float) -> Tensor:
    """How unevenly the blocks of one stage share the places of the grid: the squared coefficient of variation of load.

    The load of a place is the mean, over images and blocks, of a smooth estimate of its being selected: the logistic
    function of how far its logit lies above the least one that is selected, in standard deviations of the image's
    logits. So the loss is 0 when all places have the same load, and scaling the logits, which changes no selection,
    does not change it.

    In distributed runs the load is the mean over all processes, which must have batches of equal size; the gradient is
    that of the own part, as data-parallel averaging wants it.

    Args:
        logits: (batch, places) a block.
        keep_ratio: fraction of the places that the blocks select, below 1.

    Returns:
        A scalar.

    Source: Shazeer et al. 2017, arXiv 1701.06538, appendix A, with places for experts.
    """
    scores = torch.stack(list(logits)).flatten(0, 1)
    kept = max(1, round(keep_ratio * scores.shape[1]))
    with torch.no_grad():
        threshold = scores.topk(kept, dim=1).values[:, -1:]
        width = scores.std(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    own = torch.sigmoid((scores - threshold) / width).mean(dim=0)
    load = own + (_mean_of_processes(own.detach()) - own.detach())
    return load.var(correction=0) / load.mean().square()


class RouterBalance:
    """Collects the logits of a backbone's routers in a forward in training mode, for its load-balancing loss.

    Blocks without a router, and blocks that keep every token, are left out. `remove` ends it.

    Args:
        backbone: to watch.

    Raises:
        ValueError: no block of the backbone selects.
    """

    def __init__(self, backbone: DynamicVis) -> None:
        self._logits: dict[SelectiveBlock, Tensor] = {}
        self._stages: list[list[SelectiveBlock]] = []
        self._handles: list[RemovableHandle] = [backbone.register_forward_pre_hook(self._clear)]
        for stage in backbone.stages:
            blocks = [block for block in stage.modules() if isinstance(block, SelectiveBlock)]
            blocks = [block for block in blocks if block.keep_ratio is not None and block.keep_ratio < 1]
            self._stages += [blocks] if blocks else []
            self._handles += [self._watch(block) for block in blocks]
        if not self._stages:
            self.remove()
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
            assert blocks[0].keep_ratio is not None
            yield balance_loss([self._logits[block].float() for block in blocks], blocks[0].keep_ratio)

    def _clear(self, backbone: nn.Module, inputs: Any) -> None:
        self._logits.clear()

    def _watch(self, block: SelectiveBlock) -> RemovableHandle:
        def keep(router: nn.Module, inputs: Any, logits: Tensor) -> None:
            if block.training and torch.is_grad_enabled():
                self._logits[block] = logits.squeeze(-1)

        assert block.router is not None
        return block.router.register_forward_hook(keep)


def _mean_of_processes(values: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()
