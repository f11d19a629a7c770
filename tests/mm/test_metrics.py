from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dynamicvis.data.raster import DataError
from dynamicvis.mm.metrics.detection import CocoMetric, PrecisionRecallMetric


def sample(predicted, scores, truth) -> dict:
    return {
        "pred_instances": {
            "bboxes": torch.tensor(predicted, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor(scores, dtype=torch.float32),
        },
        "gt_instances": {"bboxes": torch.tensor(truth, dtype=torch.float32).reshape(-1, 4)},
    }


def evaluate(metric: PrecisionRecallMetric, *samples: dict) -> dict[str, float]:
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def test_counts_over_images_against_a_hand_count():
    first = sample(
        predicted=[[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [80, 80, 90, 90]],
        scores=[0.9, 0.8, 0.7, 0.2],
        truth=[[0, 0, 10, 10], [100, 100, 110, 110]],
    )
    second = sample(predicted=[[20, 20, 30, 30]], scores=[0.6], truth=[[20, 20, 30, 30]])
    result = evaluate(PrecisionRecallMetric(score_thr=0.3), first, second)
    # Four predictions reach 0.3; the duplicate and the box at 50 match nothing; one of three trees is missed.
    assert result["boxes/precision"] == pytest.approx(2 / 4)
    assert result["boxes/recall"] == pytest.approx(2 / 3)
    assert result["boxes/f1"] == pytest.approx(4 / 7)


def test_assignment_is_optimal_not_greedy():
    # The best-scored prediction overlaps both trees; taking its favourite would leave the other prediction alone.
    pair = sample(predicted=[[0, 0, 10, 16], [0, 0, 10, 8]], scores=[0.9, 0.6], truth=[[0, 0, 10, 12], [0, 7, 10, 19]])
    result = evaluate(PrecisionRecallMetric(score_thr=0.5), pair)
    assert (result["boxes/precision"], result["boxes/recall"]) == (1.0, 1.0)


def test_iou_must_exceed_the_threshold():
    pair = sample(predicted=[[0, 0, 10, 4]], scores=[0.9], truth=[[0, 0, 10, 10]])
    assert evaluate(PrecisionRecallMetric(iou_thr=0.4), pair)["boxes/recall"] == 0.0
    assert evaluate(PrecisionRecallMetric(iou_thr=0.39), pair)["boxes/recall"] == 1.0


def test_finds_the_score_threshold_where_the_count_is_right():
    # Down to 0.61 one right and one wrong box stand against two trees: both figures are 1/2. At 0.41 to 0.60 the second
    # tree is found too: 2/3 against 1. At 0.40 and below come more wrong boxes; above 0.80, one of one is right.
    result = evaluate(
        PrecisionRecallMetric(),
        sample(
            predicted=[[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30], [70, 70, 80, 80]],
            scores=[0.905, 0.805, 0.605, 0.405],
            truth=[[0, 0, 10, 10], [20, 20, 30, 30]],
        ),
    )
    assert result["boxes/balanced_score_thr"] == pytest.approx(0.61)
    assert result["boxes/balanced_precision"] == result["boxes/balanced_recall"] == 0.5


def test_finds_the_score_threshold_of_the_largest_f1():
    # From 0.41 to 0.50 only the two right boxes remain; the lowest such threshold is the answer.
    result = evaluate(
        PrecisionRecallMetric(score_thr=0.3),
        sample(
            predicted=[[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]],
            scores=[0.9, 0.505, 0.405],
            truth=[[0, 0, 10, 10], [20, 20, 30, 30]],
        ),
    )
    assert result["boxes/best_score_thr"] == pytest.approx(0.41)
    assert (result["boxes/best_precision"], result["boxes/best_recall"], result["boxes/best_f1"]) == (1.0, 1.0, 1.0)
    assert result["boxes/precision"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("predicted", "truth"), [([], [[0, 0, 10, 10]]), ([[0, 0, 10, 10]], []), ([], [])])
def test_empty_sides_give_zero(predicted, truth):
    result = evaluate(PrecisionRecallMetric(), sample(predicted, [0.9] * len(predicted), truth))
    assert result["boxes/precision"] == result["boxes/recall"] == result["boxes/f1"] == 0.0


def test_coco_metric_takes_thresholds_as_a_list(tmp_path):
    annotations = tmp_path / "truth.json"
    truth = {
        "images": [{"id": 1, "width": 64, "height": 64, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0}],
    }
    annotations.write_text(json.dumps(truth))
    metric = CocoMetric(ann_file=str(annotations), metric="bbox", iou_thrs=[0.5])
    metric.dataset_meta = {"classes": ("x",)}
    prediction = {
        "bboxes": torch.tensor([[0.0, 0.0, 40.0, 30.0]]),
        "scores": torch.tensor([0.9]),
        "labels": torch.tensor([0]),
    }
    metric.process({}, [{"img_id": 1, "ori_shape": (64, 64), "pred_instances": prediction}])
    result = metric.evaluate(1)
    # IoU 0.75: a hit at 0.5.
    np.testing.assert_allclose([result["coco/bbox_mAP"], result["coco/bbox_mAP_50"]], 1.0)


def test_predictions_in_regions_to_be_ignored_do_not_count():
    image = sample(
        predicted=[[0, 0, 10, 10], [30, 30, 40, 40], [36, 36, 56, 56], [70, 70, 80, 80]],
        scores=[0.9, 0.9, 0.9, 0.9],
        truth=[[0, 0, 10, 10]],
    )
    image["ignored_instances"] = {"bboxes": torch.tensor([[0.0, 0.0, 48.0, 48.0]])}
    result = evaluate(PrecisionRecallMetric(iou_thr=0.4), image)
    # The first is right though it lies in the region too; the second lies in it; of the third, 36 % do.
    assert result["boxes/precision"] == pytest.approx(1 / 3)
    assert result["boxes/recall"] == 1.0


def coco_metric(path, annotations, **settings):
    truth = {
        "images": [{"id": 1, "width": 64, "height": 64, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], **item} for item in annotations],
    }
    path.write_text(json.dumps(truth), encoding="utf-8-sig")
    metric = CocoMetric(ann_file=str(path), **settings)
    metric.dataset_meta = {"classes": ("x",)}
    return metric


def test_coco_metric_ignores_crowds_and_counts_an_object_of_number_0(tmp_path):
    crowd = {"id": 0, "bbox": [0, 42, 64, 22], "iscrowd": 1, "segmentation": [], "area": None}
    metric = coco_metric(tmp_path / "truth.json", [{"id": 0}, crowd], metric="bbox")
    prediction = {
        "bboxes": torch.tensor([[0.0, 44.0, 10.0, 54.0], [0.0, 0.0, 40.0, 40.0]]),
        "scores": torch.tensor([0.95, 0.9]),
        "labels": torch.tensor([0, 0]),
    }
    metric.process({}, [{"img_id": 1, "ori_shape": (64, 64), "pred_instances": prediction}])
    assert metric.evaluate(1)["coco/bbox_mAP"] == pytest.approx(1.0)


def test_coco_metric_of_masks_needs_outlines_of_all_objects(tmp_path):
    with pytest.raises(DataError, match=r"object 1 in a.png has no segmentation, and masks are to be evaluated"):
        coco_metric(tmp_path / "truth.json", [{}], metric=["bbox", "segm"])
    coco_metric(tmp_path / "truth.json", [{"iscrowd": 1}], metric="segm")
