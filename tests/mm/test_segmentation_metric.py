from __future__ import annotations

import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from mmengine.registry import METRICS

from dynamicvis.data.raster import DataError
from dynamicvis.mm.metrics.segmentation import SegmentationMetric


def sample(truth: object, predicted: object) -> dict:
    return {
        "gt_sem_seg": {"data": torch.as_tensor(truth)[None]},
        "pred_sem_seg": {"data": torch.as_tensor(predicted)[None]},
        "seg_map_path": "mask.png",
    }


def metric(*classes: str) -> SegmentationMetric:
    built = METRICS.build({"type": "dynamicvis.SegmentationMetric"})
    built.dataset_meta = {"classes": classes}
    return built


def evaluate(samples: list[dict], *classes: str) -> dict[str, float]:
    built = metric(*classes)
    for one in samples:
        built.process(None, [one])
    return built.evaluate(len(samples))


def test_a_hand_count_over_images_of_different_sizes() -> None:
    # Road: 3 found of 5, 1 false; background: 4 + 1 right. The pixel of 255 counts nowhere.
    first = sample([[1, 1, 1, 0], [1, 0, 0, 255]], [[1, 1, 0, 0], [1, 1, 0, 1]])
    second = sample([[1], [0], [0]], [[0], [0], [0]])
    result = evaluate([first, second], "background", "road")
    assert result["seg/precision_road"] == pytest.approx(3 / 4)
    assert result["seg/recall_road"] == pytest.approx(3 / 5)
    assert result["seg/F1_road"] == pytest.approx(2 / 3)
    assert result["seg/IoU_road"] == pytest.approx(3 / 6)
    assert result["seg/IoU_background"] == pytest.approx(4 / 7)
    assert result["seg/mIoU"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert result["seg/mF1"] == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert result["seg/accuracy"] == pytest.approx(7 / 10)


def test_against_the_definitions_on_sets_of_pixels() -> None:
    generator = np.random.default_rng(0)
    truths = [generator.integers(0, 5, size) for size in ((7, 9), (20, 3), (1, 40))]
    predictions = [generator.integers(0, 5, truth.shape) for truth in truths]
    for truth in truths:
        truth[generator.random(truth.shape) < 0.2] = 255
    result = evaluate([sample(*pair) for pair in zip(truths, predictions, strict=True)], *"abcde")
    truth, predicted = (np.concatenate([array.ravel() for array in arrays]) for arrays in (truths, predictions))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    ious = []
    for index, name in enumerate("abcde"):
        expected, found = truth == index, predicted == index
        both = (expected & found).sum()
        ious.append(both / (expected | found).sum())
        assert result[f"seg/IoU_{name}"] == pytest.approx(ious[-1])
        precision, recall = both / found.sum(), both / expected.sum()
        assert result[f"seg/precision_{name}"] == pytest.approx(precision)
        assert result[f"seg/recall_{name}"] == pytest.approx(recall)
        assert result[f"seg/F1_{name}"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert result["seg/mIoU"] == pytest.approx(np.mean(ious))
    assert result["seg/accuracy"] == pytest.approx((truth == predicted).mean())


def test_a_class_in_neither_is_no_number_and_in_no_mean() -> None:
    result = evaluate([sample([[0, 0, 1, 1]], [[0, 0, 0, 0]])], "a", "b", "c")
    assert all(math.isnan(result[f"seg/{figure}_c"]) for figure in ("IoU", "F1", "precision", "recall"))
    assert result["seg/precision_b"] == result["seg/recall_b"] == result["seg/IoU_b"] == 0.0
    assert result["seg/mIoU"] == pytest.approx((0.5 + 0) / 2)


def test_nothing_to_count_is_no_number() -> None:
    result = evaluate([sample([[255, 255]], [[0, 1]])], "a", "b")
    assert all(math.isnan(value) for value in result.values())


def test_sizes_and_values_are_checked() -> None:
    with pytest.raises(DataError, match=r"mask\.png is 3 x 1 pixels and the prediction 2 x 1"):
        evaluate([sample([[0, 1, 1]], [[0, 1]])], "a", "b")
    for value in (2, -1):
        with pytest.raises(DataError, match=rf"mask\.png holds class {value}; the data set has classes 0 to 1"):
            evaluate([sample([[0, value]], [[0, 1]])], "a", "b")


def gather(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # Three images for two processes: the sampler gives the second process the first image again.
    images = [sample([[1, 1]], [[1, 1]]), sample([[0, 1]], [[1, 1]]), sample([[0, 0, 1]], [[0, 1, 1]])]
    built = metric("a", "b")
    for index in ((0, 2), (1, 0))[rank]:
        built.process(None, [images[index]])
    result = built.evaluate(3)
    (Path(folder) / f"{rank}.txt").write_text(f"{result['seg/IoU_b']:.9f} {result['seg/accuracy']:.9f}")
    torch.distributed.destroy_process_group()


def test_two_processes_count_every_image_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(gather, (port, str(tmp_path)), nprocs=2, start_method="fork")
    # Right on b: 2 + 1 + 1; wrong: 1 + 1.
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == [f"{4 / 6:.9f} {5 / 7:.9f}"] * 2
