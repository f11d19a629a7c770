"""Metrics of maps: segmentation and change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray

from dynamicvis.data.raster import DataError
from dynamicvis.registry import METRICS


@METRICS.register_module()
class SegmentationMetric(BaseMetric):
    """Precision, recall, F1 and IoU of every class, from one confusion matrix over all pixels of all images.

    Images may be of any size: what is kept of each is its share of the matrix.

    Results, each 0 to 1, for every class: ``IoU_NAME``, ``F1_NAME``, ``precision_NAME``, ``recall_NAME``. Precision
    without predictions and recall without truth are 0; all four are NaN where a class is in neither. Over all classes:
    ``mIoU`` and ``mF1``, means over the classes that are in either, and ``accuracy``, the share of right pixels.

    Args:
        ignore_index: value in the truth of pixels that do not count.
        collect_device: where distributed workers gather their results, ``"cpu"`` or ``"gpu"``.
        prefix: put before every name in the results.
    """

    default_prefix = "seg"

    def __init__(self, ignore_index: int = 255, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ignore_index = ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch by true and predicted class.

        Raises:
            DataError: prediction and truth of an image differ in size, or the truth has a value that is no class.
        """
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            truth, predicted = (_to_numpy(sample[key]["data"]) for key in ("gt_sem_seg", "pred_sem_seg"))
            name = sample.get("seg_map_path", sample.get("img_path", "an image"))
            if truth.shape != predicted.shape:
                raise DataError(
                    f"the mask {name} is {truth.shape[1]} x {truth.shape[0]} pixels and the prediction "
                    f"{predicted.shape[1]} x {predicted.shape[0]}; load the mask after the image was resized"
                )
            counted = truth != self.ignore_index
            truth, predicted = truth[counted], predicted[counted]
            if truth.size and not 0 <= truth.min() <= truth.max() < classes:
                wrong = truth.max() if truth.max() >= classes else truth.min()
                raise DataError(f"the mask {name} holds class {wrong}; the data set has classes 0 to {classes - 1}")
            # Only cells that are not empty: with many classes most are.
            cells, pixels = np.unique(truth * classes + predicted, return_counts=True)
            self.results.append((cells, pixels))

    def compute_metrics(self, results: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> dict[str, float]:
        """Figures from the counts of all images."""
        names = self.dataset_meta["classes"]
        matrix = np.zeros(len(names) ** 2, np.int64)
        for cells, pixels in results:
            matrix[cells] += pixels
        return _summarise(matrix.reshape(len(names), len(names)), names)


def _summarise(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    right, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    absent = true + predicted == 0
    figures = {
        "IoU": right / (true + predicted - right).clip(min=1),
        "F1": 2 * right / (true + predicted).clip(min=1),
        "precision": right / predicted.clip(min=1),
        "recall": right / true.clip(min=1),
    }
    if absent.all():
        print_log("no pixel was counted: every one is to be ignored", logger="current", level=logging.WARNING)
    metrics = {
        f"{figure}_{name}": float("nan") if gone else float(value)
        for figure, values in figures.items()
        for name, value, gone in zip(names, values, absent, strict=True)
    }
    for figure in ("IoU", "F1"):
        present = figures[figure][~absent]
        metrics[f"m{figure}"] = float(present.mean()) if present.size else float("nan")
    metrics["accuracy"] = float(right.sum() / matrix.sum()) if matrix.any() else float("nan")
    return metrics


def _to_numpy(values: Any) -> NDArray[np.int64]:
    """(H, W) from a tensor (1, H, W) or (H, W)."""
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values, dtype=np.int64)
    return array.reshape(array.shape[-2:])
