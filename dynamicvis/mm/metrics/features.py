"""Metrics of frozen features: retrieval, nearest neighbours, linear probing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from dynamicvis.registry import METRICS
from dynamicvis.retrieval import evaluate_retrieval, knn_predict, linear_probe

_Features = tuple[str, Tensor, list[int]]


class FeatureMetric(BaseMetric):
    """Gathers embedding, labels and role of every sample.

    The test data set is a concatenation of two, one with ``role="query"`` and one with ``role="database"``; both keys
    have to be packed: ``dict(type="PackInputs", meta_keys=("role", ...))``.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep what is compared of every image of a batch."""
        for sample in data_samples:
            role = sample.get("role")
            if role not in ("query", "database"):
                raise ValueError(
                    f"a sample of {type(self).__name__} must be a query or of the database, got role={role!r}; set "
                    "role of both data sets, and name it in meta_keys of PackInputs"
                )
            labels = torch.as_tensor(sample["gt_label"]).reshape(-1).tolist()
            self.results.append((role, sample["embedding"].float().cpu(), labels))

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        return len(self.dataset_meta["classes"])

    def split(self, results: list[_Features]) -> tuple[Tensor, list[list[int]], Tensor, list[list[int]]]:
        """Embeddings (N, D) and labels of queries, then of the database.

        Raises:
            ValueError: there are no queries, or there is no database.
        """
        parts: list[Any] = []
        for role in ("query", "database"):
            chosen = [(embedding, labels) for kind, embedding, labels in results if kind == role]
            if not chosen:
                raise ValueError(f"no image has role {role!r}; the test data set needs queries and a database")
            parts += [torch.stack([embedding for embedding, _ in chosen]), [labels for _, labels in chosen]]
        return parts[0], parts[1], parts[2], parts[3]


@METRICS.register_module()
class RetrievalMetric(FeatureMetric):
    """mAP@k and P@k of image retrieval, see `dynamicvis.retrieval.evaluate_retrieval`.

    Results, each 0 to 1: ``float/mAP@20``, ``float/P@20``, and the same for ``binary`` and ``64bit``.

    Args:
        k: entries looked at for each query.
        codes: what to search by: ``"float"`` (L1 distance), ``"binary"`` or a number of bits (Hamming distance).
        collect_device: where distributed workers gather their results, ``"cpu"`` or ``"gpu"``.
        prefix: put before every name in the results.
    """

    default_prefix = "retrieval"

    def __init__(
        self,
        k: int = 20,
        codes: Sequence[str | int] = ("float", "binary", 64),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.k = k
        self.codes = tuple(codes)

    def compute_metrics(self, results: list[_Features]) -> dict[str, float]:
        """Search the database for every query, on the GPU where there is one: L1 distances are many operations."""
        queries, query_labels, database, labels = self.split(results)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return evaluate_retrieval(
            queries.to(device),
            self._one_hot(query_labels).to(device),
            database.to(device),
            self._one_hot(labels).to(device),
            self.k,
            self.codes,
        )

    def _one_hot(self, labels: list[list[int]]) -> Tensor:
        result = torch.zeros(len(labels), self.num_classes, dtype=torch.bool)
        for row, classes in zip(result, labels, strict=True):
            row[classes] = True
        return result


@METRICS.register_module()
class FrozenFeatureMetric(FeatureMetric):
    """Accuracy and macro F1 of classifiers on frozen features: k nearest neighbours and linear probing.

    The database is the training split, the queries are the test split. See `dynamicvis.retrieval.knn_predict` and
    `dynamicvis.retrieval.linear_probe`. Results, each 0 to 1: ``knn/accuracy``, ``knn/f1``, ``linear/accuracy``,
    ``linear/f1``.

    Args:
        neighbors: neighbours that vote.
        weight_decay: of the linear classifier.
        collect_device: where distributed workers gather their results, ``"cpu"`` or ``"gpu"``.
        prefix: put before every name in the results.
    """

    default_prefix = "frozen"

    def __init__(
        self,
        neighbors: int = 20,
        weight_decay: float = 1e-3,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.neighbors = neighbors
        self.weight_decay = weight_decay

    def compute_metrics(self, results: list[_Features]) -> dict[str, float]:
        """Classify every query from the database."""
        queries, query_labels, database, labels = self.split(results)
        several = [found for found in (*query_labels, *labels) if len(found) != 1]
        if several:
            raise ValueError(f"classification of frozen features needs one label an image, found labels {several[0]}")
        truth, known = (torch.tensor(found).flatten() for found in (query_labels, labels))
        predictions = {
            "knn": knn_predict(database, known, queries, self.num_classes, self.neighbors),
            "linear": linear_probe(database, known, queries, self.num_classes, self.weight_decay),
        }
        figures = {}
        for name, predicted in predictions.items():
            figures[f"{name}/accuracy"] = float((predicted == truth).double().mean())
            figures[f"{name}/f1"] = _macro_f1(predicted, truth, self.num_classes)
        return figures


def _macro_f1(predicted: Tensor, truth: Tensor, num_classes: int) -> float:
    """Mean over the classes that occur, in truth or prediction, of their F1."""
    pairs = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1).double()
    total = pairs.sum(dim=0) + pairs.sum(dim=1)
    return float((2 * pairs.diag()[total > 0] / total[total > 0]).mean())
