"""Detection metrics."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dynamicvis.data.raster import DataError
from dynamicvis.registry import METRICS

_THRESHOLDS = np.arange(0.05, 0.96, 0.01)


@METRICS.register_module()
class PrecisionRecallMetric(BaseMetric):
    """Precision and recall of boxes after one-to-one matching, as DeepForest reports them for tree crowns.

    Predictions of at least ``score_thr`` and ground truth of one image are assigned to each other so that the sum of
    their IoU is largest (Weinstein et al. 2020, "DeepForest", section on evaluation); a pair counts where its IoU
    exceeds ``iou_thr``. Counts are summed over all images. Classes are not told apart. Ground truth to be ignored, such
    as crowds, need not be found, and a prediction without a partner does not count if more than ``iou_thr`` of it lies
    there.

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
            predicted = sample["pred_instances"]
            truth, ignored = (_boxes(sample.get(name, {})) for name in ("gt_instances", "ignored_instances"))
            self.results.append((_to_numpy(predicted["bboxes"]), _to_numpy(predicted["scores"]), truth, ignored))

    def compute_metrics(self, results: list[tuple[NDArray, NDArray, NDArray, NDArray]]) -> dict[str, float]:
        overlaps = [
            (_pairwise_iou(boxes, truth), scores, np.any(_shares(boxes, ignored) > self.iou_thr, axis=1))
            for boxes, scores, truth, ignored in results
        ]
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

    def _at(self, score_thr: float, overlaps: list[tuple[NDArray, NDArray, NDArray]]) -> tuple[float, float, float]:
        matched = predicted = existing = 0
        for iou, scores, in_ignored in overlaps:
            chosen = scores >= score_thr
            selected = iou[chosen]
            rows, columns = linear_sum_assignment(selected, maximize=True)
            found = rows[selected[rows, columns] > self.iou_thr]
            matched += len(found)
            counted = ~in_ignored[chosen]
            counted[found] = True
            predicted += int(counted.sum())
            existing += iou.shape[1]
        precision = matched / predicted if predicted else 0.0
        recall = matched / existing if existing else 0.0
        f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
        return precision, recall, f1


if importlib.util.find_spec("mmdet") is not None:
    from mmdet.evaluation import CocoMetric as _CocoMetric

    from dynamicvis.mm.datasets.detection import CheckedCoco

    @METRICS.register_module()
    class CocoMetric(_CocoMetric):
        """mmdet's COCO metric, working with ``iou_thrs`` given as a list.

        pycocotools compares thresholds as an array; with the list that mmdet hands over, NumPy 2 raises.

        Args:
            ann_file: annotations, read by the rules of `dynamicvis.data.coco`; predictions in crowds are ignored. None
                takes what the data samples hold.
            iou_thrs: thresholds of the IoU; None takes 0.5 to 0.95.
            **settings: as of mmdet's.

        Raises:
            DataError: the annotations break a rule, or an object has no outline and masks are to be evaluated.
        """

        def __init__(
            self, ann_file: str | None = None, *, iou_thrs: Sequence[float] | None = None, **settings: Any
        ) -> None:
            super().__init__(iou_thrs=None if iou_thrs is None else np.array(iou_thrs), **settings)
            if ann_file is not None:
                coco = CheckedCoco(ann_file)
                bare = [item for item in coco.content.objects if item.segmentation is None and not item.ignored]
                if bare and "segm" in self.metrics:
                    raise DataError(f"{bare[0].source} has no segmentation, and masks are to be evaluated; add it")
                self._coco_api = coco


def _to_numpy(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values, dtype=np.float64)


def _boxes(instances: Any) -> NDArray[np.float64]:
    """Boxes (N, 4) of instances, of none where there are no boxes."""
    boxes = instances["bboxes"] if "bboxes" in instances else np.zeros((0, 4))
    return _to_numpy(getattr(boxes, "tensor", boxes)).reshape(-1, 4)


def _pairwise_iou(boxes: NDArray, others: NDArray) -> NDArray[np.float64]:
    """IoU (N, M) of boxes (N, 4) and (M, 4), xyxy."""
    intersection = _intersections(boxes, others)
    areas, other_areas = ((values[:, 2:] - values[:, :2]).prod(axis=1) for values in (boxes, others))
    return intersection / (areas[:, None] + other_areas[None] - intersection).clip(min=1e-12)


def _shares(boxes: NDArray, others: NDArray) -> NDArray[np.float64]:
    """Share (N, M) of the boxes (N, 4) that lies in each of (M, 4), xyxy."""
    return _intersections(boxes, others) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None].clip(min=1e-12)


def _intersections(boxes: NDArray, others: NDArray) -> NDArray[np.float64]:
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (bottom_right - top_left).clip(min=0).prod(axis=2)
