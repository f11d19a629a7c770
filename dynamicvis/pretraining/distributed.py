"""Regions of all processes of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Processes of the run; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_regions(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features and labels of the regions of all processes, in the order of the processes.

    The gradient flows through the own regions only, multiplied by the number of processes: data-parallel training
    averages the gradients of its processes, and the average is then that of the whole batch, with which one
    process would have trained.

    Args:
        features: (count, channels); the count may differ by process and be 0.
        labels: (count,) integers.

    Returns:
        (total, channels) and (total,).
    """
    world = world_size()
    if world == 1:
        return features, labels
    counts = [torch.zeros(1, dtype=torch.int64, device=features.device) for _ in range(world)]
    dist.all_gather(counts, counts[0].new_tensor([len(features)]))
    sizes = [int(count) for count in counts]
    gathered = _GatherRows.apply(features, sizes)
    return gathered, _all_rows(labels, sizes)


def _all_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """(sum of sizes, ...): the rows of all processes; sent padded, since a collective wants equal shapes."""
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.begin, ctx.count, ctx.world = sum(sizes[:rank]), sizes[rank], len(sizes)
        return _all_rows(rows.detach().contiguous(), sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.begin : ctx.begin + ctx.count] * ctx.world, None
