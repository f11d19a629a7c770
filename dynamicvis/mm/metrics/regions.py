"""Metrics of region classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from dynamicvis.registry import METRICS


@METRICS.register_module()
class RegionMetric(BaseMetric):
    """Macro precision, recall and F1, and accuracy of the classes of given regions, percent.

    Means are over all classes of the data set; a class without a true or a predicted region counts with 0, as in
    mmpretrain. Results are kept by image, so that images which a distributed sampler visits twice count once.
    """

    default_prefix = "regions"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep true and predicted labels of every image of a batch."""
        for sample in data_samples:
            pair = (sample["gt_instances"]["labels"], sample["pred_instances"]["labels"])
            self.results.append(tuple(labels.cpu().numpy() for labels in pair))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Metrics over all images.

        Raises:
            ValueError: no image has a region.
        """
        truth, predicted = (np.concatenate(labels) for labels in zip(*results, strict=True))
        if not len(truth):
            raise ValueError(f"none of the {len(results)} images has a region to classify; check the annotations")
        classes = len(self.dataset_meta["classes"])
        right = np.bincount(truth[truth == predicted], minlength=classes)
        precision = right / np.maximum(np.bincount(predicted, minlength=classes), 1)
        recall = right / np.maximum(np.bincount(truth, minlength=classes), 1)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        means = {"precision": precision, "recall": recall, "f1": f1, "accuracy": truth == predicted}
        return {name: 100 * float(values.mean()) for name, values in means.items()} | {"count": len(truth)}
