"""How good a retrieval is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynamicvis.retrieval.codes import binary_codes
from dynamicvis.retrieval.index import RetrievalIndex

Code = str | int


def relevance(query_labels: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
    """Whether each entry found shares a label with its query.

    Args:
        query_labels: (Q, classes) bool, one or several labels a query.
        labels: (N, classes) bool, of the database.
        positions: (Q, k) entries found.

    Returns:
        (Q, k) bool.
    """
    return torch.stack([(labels[row] & wanted).any(dim=1) for wanted, row in zip(query_labels, positions, strict=True)])


def mean_average_precision(relevant: Tensor) -> float:
    """mAP@k: mean over queries of the average precision of the k entries found.

    The average precision is the mean, over the relevant entries among the k, of the precision down to each; 0 for a
    query without any. That is torchmetrics' ``RetrievalMAP(top_k=k)``.

    Args:
        relevant: (Q, k) bool, best first.
    """
    ranks = torch.arange(1, relevant.shape[1] + 1, dtype=torch.float64, device=relevant.device)
    precisions = relevant.cumsum(dim=1) / ranks
    return float(((precisions * relevant).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)).mean())


def mean_precision(relevant: Tensor) -> float:
    """P@k: mean over queries of the fraction of relevant entries among the k found; ``relevant`` (Q, k) bool."""
    return float(relevant.double().mean())


def evaluate_retrieval(
    queries: Tensor,
    query_labels: Tensor,
    database: Tensor,
    labels: Tensor,
    k: int = 20,
    codes: Sequence[Code] = ("float", "binary", 64),
) -> dict[str, float]:
    """mAP@k and P@k of searches by float embeddings (L1 distance) and by binary codes (Hamming distance).

    Args:
        queries: (Q, D) embeddings.
        query_labels: (Q, classes) bool.
        database: (N, D) embeddings, N at least k.
        labels: (N, classes) bool.
        k: entries looked at for each query.
        codes: what to search by: ``"float"``, ``"binary"`` (one bit a dimension), or a number of bits.

    Returns:
        Figures from 0 to 1, such as ``float/mAP@20``, ``binary/P@20``, ``64bit/mAP@20``.

    Raises:
        ValueError: an unknown code, no queries, or a database smaller than ``k``.
    """
    if len(queries) == 0:
        raise ValueError("retrieval needs at least one query")
    results = {}
    for code in codes:
        name, coded_queries, coded_database = _encode(code, queries, database)
        _, positions = RetrievalIndex(coded_database).search(coded_queries, k)
        relevant = relevance(query_labels, labels, positions)
        results[f"{name}/mAP@{k}"] = mean_average_precision(relevant)
        results[f"{name}/P@{k}"] = mean_precision(relevant)
    return results


def _encode(code: Code, queries: Tensor, database: Tensor) -> tuple[str, Tensor, Tensor]:
    if code == "float":
        return "float", queries, database
    if code == "binary":
        return "binary", binary_codes(queries), binary_codes(database)
    if isinstance(code, int):
        return f"{code}bit", binary_codes(queries, code), binary_codes(database, code)
    raise ValueError(f"a code is 'float', 'binary' or a number of bits, got {code!r}")
