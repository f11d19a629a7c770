"""Exact search for the nearest entries of a database."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 25  # distances computed at once


class RetrievalIndex:
    """A database that answers which of its entries are nearest to a query.

    The distance is L1: the sum of absolute differences of float embeddings, which for binary codes is the Hamming
    distance, the number of bits that differ. Search is exact; entries at the same distance come in the order in which
    they were added.

    Args:
        entries: (N, D) float embeddings, or bool codes, on any device.

    Raises:
        ValueError: ``entries`` is empty or has another number of dimensions.
    """

    def __init__(self, entries: Tensor) -> None:
        if entries.ndim != 2 or entries.numel() == 0:
            raise ValueError(f"a database needs entries (N, D), got a tensor of shape {tuple(entries.shape)}")
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def search(self, queries: Tensor, k: int = 20) -> tuple[Tensor, Tensor]:
        """The ``k`` nearest entries of each query.

        Args:
            queries: (Q, D), of the kind of the entries.
            k: number of entries wanted, at most that of the database.

        Returns:
            Distances (Q, k), ascending, float32 or float64; and positions in the database (Q, k), int64.

        Raises:
            ValueError: the queries are of another kind or size, or ``k`` is out of range.
        """
        if queries.ndim != 2 or queries.shape[1] != self.entries.shape[1] or queries.dtype != self.entries.dtype:
            raise ValueError(
                f"queries must be (Q, {self.entries.shape[1]}) of type {self.entries.dtype} as the entries of the "
                f"database, got {tuple(queries.shape)} of type {queries.dtype}"
            )
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be from 1 to {len(self)}, the size of the database, got {k}")
        size = max(1, _CHUNK // len(self))
        found = [_nearest(self._distances(chunk), k) for chunk in queries.split(size)]
        if not found:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        distances, positions = zip(*found, strict=True)
        return torch.cat(distances), torch.cat(positions)

    def _distances(self, queries: Tensor) -> Tensor:
        if self.entries.dtype != torch.bool:
            return torch.cdist(queries, self.entries, p=1)
        # With bits as -1 and 1 the product counts equal bits less different ones.
        signs, others = (codes.float() * 2 - 1 for codes in (queries, self.entries))
        return (signs.shape[1] - signs @ others.T) / 2


def _nearest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row with their columns, ascending; among equals the leftmost."""
    last = distances.kthvalue(k, dim=1, keepdim=True).values
    below, equal = distances < last, distances == last
    room = k - below.sum(dim=1, keepdim=True)
    columns = (below | (equal & (equal.cumsum(dim=1) <= room))).nonzero()[:, 1].view(-1, k)
    values, order = distances.gather(1, columns).sort(dim=1, stable=True)
    return values, columns.gather(1, order)
