"""Metrics of region classification against mmpretrain's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmpretrain.evaluation import SingleLabelMetric

from dynamicvis.registry import METRICS


def evaluate(pairs: list[tuple[list[int], list[int]]], classes: int, size: int | None = None) -> dict[str, float]:
    metric = METRICS.build(dict(type="dynamicvis.RegionMetric"))
    metric.dataset_meta = {"classes": [str(i) for i in range(classes)]}
    for truth, predicted in pairs:
        labels = {
            "gt_instances": {"labels": torch.tensor(truth)},
            "pred_instances": {"labels": torch.tensor(predicted)},
        }
        metric.process(None, [labels])
    return metric.evaluate(len(pairs) if size is None else size)


def test_metrics_are_mmpretrains():
    generator = np.random.default_rng(0)
    # Class 5 is never predicted, class 6 is neither predicted nor there.
    pairs = [
        (generator.integers(0, 6, count).tolist(), generator.integers(0, 5, count).tolist()) for count in (3, 1, 40, 7)
    ]
    truth, predicted = (np.concatenate(labels) for labels in zip(*pairs, strict=True))
    metrics = evaluate(pairs, 7)
    theirs = SingleLabelMetric.calculate(
        torch.from_numpy(predicted).long(), torch.from_numpy(truth).long(), num_classes=7
    )
    for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
        assert metrics[f"regions/{name}"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["regions/accuracy"] == pytest.approx(100 * (truth == predicted).mean())
    assert metrics["regions/count"] == 51


def test_images_visited_twice_count_once():
    """A distributed sampler fills the last round up by the first images again, and MMEngine cuts the results."""
    pairs = [([0, 1], [0, 1]), ([1], [0]), ([2], [2])]
    assert evaluate([*pairs, pairs[0]], 3, size=3) == evaluate(pairs, 3)


def test_no_region_at_all_is_an_error():
    with pytest.raises(ValueError, match="none of the 2 images has a region"):
        evaluate([([], []), ([], [])], 3)
