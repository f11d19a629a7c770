"""Detection metrics."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dynamicvis.registry import METRICS

_THRESHOLDS = np.arange(0.05, 0.96, 0.01)


@METRICS.register_module()
class PrecisionRecallMetric(BaseMetric):
    """Precision and recall of boxes after one-to-one matching, as DeepForest reports them for tree crowns.

    Predictions of at least ``score_thr`` and ground truth of one image are assigned to each other so that the sum of
    their IoU is largest (Weinstein et al. 2020, "DeepForest", section on evaluation); a pair counts where its IoU
    exceeds ``iou_thr``. Counts are summed over all images. Classes are not told apart, ignored ground truth is dropped.

    Results, each 0 to 1: ``precision``, ``recall`` and ``f1`` at ``score_thr``; and, over score thresholds 0.05, 0.06,
    ..., 0.95, the threshold of the largest F1 (the lowest, where several are equal) as ``best_score_thr`` with
    ``best_precision``, ``best_recall``, ``best_f1``; and the threshold at which precision and recall are nearest, so
    that the number of predictions is right, as ``balanced_score_thr`` with ``balanced_precision``, ``balanced_recall``.
    Precision without predictions and recall without ground truth are 0.

    Args:
        score_thr: lowest score that counts as a prediction.
        iou_thr: a matched pair must exceed this IoU.
        collect_device: where distributed workers gather their results, ``"cpu"`` or ``"gpu"``.
        prefix: put before every name in the results.
    """

    default_prefix = "boxes"

    def __init__(
        self, score_thr: float = 0.3, iou_thr: float = 0.4, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.score_thr = score_thr
        self.iou_thr = iou_thr

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep predicted boxes with scores, and ground truth, of every image of a batch."""
        for sample in data_samples:
            predicted, truth = sample["pred_instances"], sample["gt_instances"]
            boxes = truth["bboxes"]
            boxes = getattr(boxes, "tensor", boxes)
            self.results.append(
                (_to_numpy(predicted["bboxes"]), _to_numpy(predicted["scores"]), _to_numpy(boxes).reshape(-1, 4))
            )

    def compute_metrics(self, results: list[tuple[NDArray, NDArray, NDArray]]) -> dict[str, float]:
        overlaps = [(_pairwise_iou(boxes, truth), scores) for boxes, scores, truth in results]
        precision, recall, f1 = self._at(self.score_thr, overlaps)
        curve = [(*self._at(threshold, overlaps), float(threshold)) for threshold in _THRESHOLDS]
        best = max(curve, key=lambda point: point[2])
        # Where nothing matches, precision and recall agree on 0, and say nothing.
        balanced = min(curve, key=lambda point: abs(point[0] - point[1]) if point[2] else 1.0)
        return {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "best_score_thr": round(best[3], 2),
            "best_precision": best[0],
            "best_recall": best[1],
            "best_f1": best[2],
            "balanced_score_thr": round(balanced[3], 2),
            "balanced_precision": balanced[0],
            "balanced_recall": balanced[1],
        }

    def _at(self, score_thr: float, overlaps: list[tuple[NDArray, NDArray]]) -> tuple[float, float, float]:
        matched = predicted = existing = 0
        for iou, scores in overlaps:
            selected = iou[scores >= score_thr]
            rows, columns = linear_sum_assignment(selected, maximize=True)
            matched += int((selected[rows, columns] > self.iou_thr).sum())
            predicted += len(selected)
            existing += iou.shape[1]
        precision = matched / predicted if predicted else 0.0
        recall = matched / existing if existing else 0.0
        f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
        return precision, recall, f1


if importlib.util.find_spec("mmdet") is not None:
    from mmdet.evaluation import CocoMetric as _CocoMetric

    @METRICS.register_module()
    class CocoMetric(_CocoMetric):
        """mmdet's COCO metric, working with ``iou_thrs`` given as a list.

        pycocotools compares thresholds as an array; with the list that mmdet hands over, NumPy 2 raises.
        """

        def __init__(self, *args: Any, iou_thrs: Sequence[float] | None = None, **kwargs: Any) -> None:
            super().__init__(*args, iou_thrs=None if iou_thrs is None else np.array(iou_thrs), **kwargs)


def _to_numpy(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, dtype=np.float64)


def _pairwise_iou(boxes: NDArray, others: NDArray) -> NDArray[np.float64]:
    """IoU (N, M) of boxes (N, 4) and (M, 4), xyxy."""
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (bottom_right - top_left).clip(min=0).prod(axis=2)
    areas, other_areas = ((values[:, 2:] - values[:, :2]).prod(axis=1) for values in (boxes, others))
    return intersection / (areas[:, None] + other_areas[None] - intersection).clip(min=1e-12)
