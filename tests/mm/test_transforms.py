from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from dynamicvis.mm.transforms import BackgroundJitter, RadiometricJitter, RandomRotate90, RandomScale


def marked_image() -> dict:
    """An image that is 1 inside the box (x 3..9, y 2..5) and 0 elsewhere."""
    image = np.zeros((12, 20, 3), dtype=np.uint8)
    image[2:5, 3:9] = 1
    return {"img": image, "img_shape": (12, 20), "gt_bboxes": HorizontalBoxes(torch.tensor([[3.0, 2.0, 9.0, 5.0]]))}


def test_rotated_boxes_stay_on_their_object():
    shapes, positions = set(), set()
    for seed in range(24):
        np.random.seed(seed)  # noqa: NPY002 - the generator that data workers are seeded through
        results = RandomRotate90().transform(marked_image())
        x1, y1, x2, y2 = (int(value) for value in results["gt_bboxes"].tensor[0])
        assert results["img"][y1:y2, x1:x2].all()
        assert results["img"].sum() == 3 * (y2 - y1) * (x2 - x1) == 54
        assert results["img_shape"] == results["img"].shape[:2]
        shapes.add(results["img_shape"])
        positions.add((x1, y1))
    assert shapes == {(12, 20), (20, 12)}
    assert len(positions) == 4


def test_random_scale_keeps_to_its_range_and_takes_boxes_along():
    factors = []
    for seed in range(16):
        np.random.seed(seed)  # noqa: NPY002
        results = RandomScale(ratio_range=(0.5, 2.0)).transform({**marked_image(), "img": np.zeros((120, 200, 3))})
        height, width = results["img_shape"]
        factors.append(width / 200)
        assert height == pytest.approx(120 * factors[-1], abs=1)
        assert results["gt_bboxes"].tensor[0, 2].item() == pytest.approx(9 * factors[-1], rel=0.02)
    assert 0.49 < min(factors) < 0.8
    assert 1.3 < max(factors) < 2.01


def test_jitter_changes_values_but_neither_range_nor_type():
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    results = []
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        results.append(RadiometricJitter(gray_prob=0.0).transform({"img": image.copy()})["img"])
    assert all(result.dtype == np.float32 and result.shape == image.shape for result in results)
    assert min(result.min() for result in results) >= 0
    assert max(result.max() for result in results) <= 255
    assert len({float(result.mean()) for result in results}) == 20
    assert max(abs(float(result.mean()) - image.mean()) for result in results) > 10


def test_jitter_is_still_where_it_is_told_to():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    still = RadiometricJitter(gain=0.0, gamma=1.0, gray_prob=0.0, blur=0.0, noise=0.0)
    np.testing.assert_allclose(still.transform({"img": image.copy()})["img"], image, atol=1e-3)
    gray = RadiometricJitter(gain=0.0, gamma=1.0, gray_prob=1.0, blur=0.0, noise=0.0).transform({"img": image})["img"]
    np.testing.assert_allclose(gray, np.broadcast_to(image.mean(axis=2, keepdims=True), image.shape), atol=1e-3)


def test_background_changes_and_the_middle_of_objects_does_not():
    image = np.random.default_rng(0).integers(60, 200, (40, 60, 3)).astype(np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[10.0, 5.0, 50.0, 35.0]]))
    outside = np.ones((40, 60), bool)
    outside[5:35, 10:50] = False
    differences = set()
    for seed in range(8):
        np.random.seed(seed)  # noqa: NPY002
        changed = BackgroundJitter(prob=1.0).transform({"img": image.copy(), "gt_bboxes": boxes})["img"]
        assert np.array_equal(changed[15:25, 22:38], image[15:25, 22:38])
        differences.add(float((changed - image)[outside].mean()))
    assert len(differences) == 8
    assert max(abs(difference) for difference in differences) > 10


def test_background_is_left_alone_at_probability_zero():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    boxes = HorizontalBoxes(torch.zeros(0, 4))
    assert BackgroundJitter(prob=0.0).transform({"img": image, "gt_bboxes": boxes})["img"] is image


def test_background_jitter_takes_boxes_outside_the_image_and_without_area():
    image = np.full((16, 16, 3), 100, dtype=np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[-9.0, -9.0, -2.0, -2.0], [4.0, 4.0, 4.0, 9.0], [-4.0, 2.0, 8.0, 30.0]]))
    np.random.seed(0)  # noqa: NPY002
    changed = BackgroundJitter(prob=1.0).transform({"img": image, "gt_bboxes": boxes})["img"]
    assert np.isfinite(changed).all()
    assert (changed[14:, 3] == 100).any()
    assert (changed[:, 12] != 100).all()
