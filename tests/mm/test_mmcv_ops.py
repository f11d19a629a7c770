from __future__ import annotations

import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dynamicvis.mm  # noqa: F401 - provides mmcv.ops
from dynamicvis.mm import mmcv_ops


@pytest.fixture
def boxes() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 40
    sizes = 5 + torch.rand(60, 2, generator=generator) * 20
    return torch.cat([corners, corners + sizes], dim=1), torch.rand(60, generator=generator)


def naive_iou(a: list[float], b: list[float], offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    inside = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_what_the_quadratic_loop_keeps(boxes, offset):
    from mmcv.ops import nms

    values, scores = boxes
    expected: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(naive_iou(values[index].tolist(), values[kept].tolist(), offset) <= 0.3 for kept in expected):
            expected.append(index)
    detections, kept = nms(values, scores, iou_threshold=0.3, offset=offset)
    assert kept.tolist() == expected
    assert 1 < len(expected) < 60
    torch.testing.assert_close(detections, torch.cat([values, scores[:, None]], dim=1)[expected])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_decays_like_the_quadratic_loop(boxes, method):
    from mmcv.ops import soft_nms

    values, scores = boxes
    left, current, expected = list(range(60)), scores.tolist(), []
    while left:
        best = max(left, key=lambda index: current[index])
        expected.append((best, current[best]))
        left.remove(best)
        for index in left:
            iou = naive_iou(values[best].tolist(), values[index].tolist(), 0)
            if method == "gaussian":
                current[index] *= math.exp(-(iou**2) / 0.5)
            elif iou >= 0.3:
                current[index] *= 0.0 if method == "naive" else 1 - iou
        left = [index for index in left if current[index] >= 0.1]
    detections, kept = soft_nms(values, scores, iou_threshold=0.3, sigma=0.5, min_score=0.1, method=method)
    assert kept.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(detections[:, 4], [score for _, score in expected], rtol=1e-5)
    torch.testing.assert_close(detections[:, :4], values[kept])


def naive_roi_align(image: torch.Tensor, roi: list[float], bins: int, scale: float, samples: int) -> torch.Tensor:
    """Average of bilinear samples, pixel centres at integers (``aligned``)."""
    x1, y1, x2, y2 = (value * scale - 0.5 for value in roi)
    height, width = image.shape[-2:]

    def at(y: float, x: float) -> torch.Tensor:
        total = torch.zeros(image.shape[0], dtype=image.dtype)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total += weight * image[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
        return total

    output = torch.zeros(image.shape[0], bins, bins, dtype=image.dtype)
    steps = [(part + 0.5) / samples for part in range(samples)]
    for i in range(bins):
        for j in range(bins):
            points = [
                at(y1 + (y2 - y1) * (i + v) / bins, x1 + (x2 - x1) * (j + u) / bins) for v in steps for u in steps
            ]
            output[:, i, j] = sum(points) / len(points)
    return output


def test_roi_align_samples_and_scatters_like_the_loop():
    from mmcv.ops import roi_align

    torch.manual_seed(0)
    image = torch.randn(2, 3, 9, 11, dtype=torch.float64, requires_grad=True)
    rois = [[0, 3.0, 2.0, 17.0, 13.0], [1, 5.5, 1.0, 12.0, 16.0]]
    output = roi_align(image, torch.tensor(rois, dtype=torch.float64), (3, 3), 0.5, 2, "avg", True)
    expected = torch.stack([naive_roi_align(image[int(roi[0])], roi[1:], 3, 0.5, 2) for roi in rois])
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, image, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, image, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_no_regions_give_no_features():
    from mmcv.ops import roi_align

    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    output = roi_align(image, torch.zeros(0, 5), (7, 7), 0.25, 2, "avg", True)
    assert output.shape == (0, 3, 7, 7)
    (gradient,) = torch.autograd.grad(output.sum(), image)
    assert not gradient.any()


def test_masks_are_cropped_and_resized_as_mask_heads_need_it():
    from mmdet.structures.mask import BitmapMasks

    mask = np.zeros((1, 20, 30), np.uint8)
    mask[0, 4:12, 6:18] = 1
    crop = BitmapMasks(mask, 20, 30).crop_and_resize(np.array([[6.0, 4.0, 30.0, 20.0]]), (16, 24), np.array([0]))
    expected = np.zeros((16, 24), np.uint8)
    expected[:8, :12] = 1
    np.testing.assert_array_equal(crop.masks[0], expected)


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_focal_loss_is_that_of_its_formula(gamma):
    from mmcv.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    logits = (3 * torch.randn(40, 3, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 4, (40,))  # 3 stands for background
    loss = sigmoid_focal_loss(logits, target, gamma, 0.25, None, "none")
    present = F.one_hot(target, 4)[:, :3].bool()
    right = torch.where(present, logits.sigmoid(), 1 - logits.sigmoid())
    expected = -torch.where(present, 0.25, 0.75) * (1 - right) ** gamma * right.log()
    torch.testing.assert_close(loss, expected)
    upstream = torch.rand_like(loss)
    (gradient,) = torch.autograd.grad(loss, logits, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, logits, upstream)
    torch.testing.assert_close(gradient, expected_gradient)
    mean = sigmoid_focal_loss(logits, target, gamma, 0.25, None, "mean")
    torch.testing.assert_close(mean, expected.sum() / 40)


def test_focal_loss_with_weights_of_classes_is_not_had():
    from mmcv.ops import sigmoid_focal_loss

    with pytest.raises(mmcv_ops.MissingOperatorError, match="sigmoid_focal_loss with weights of classes"):
        sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 2.0, 0.25, torch.ones(3), "none")


def test_max_pool_roi_align_says_what_to_install():
    from mmcv.ops import roi_align

    rois = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
    with pytest.raises(mmcv_ops.MissingOperatorError, match=r"roi_align with pool_mode='max'.*onedl-mmcv"):
        roi_align(torch.ones(1, 1, 8, 8), rois, (2, 2), 1.0, 2, "max", True)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_without_offsets_is_a_convolution(modulated):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    torch.manual_seed(0)
    image = torch.randn(2, 4, 9, 8, requires_grad=True)
    weight = torch.randn(6, 2, 3, 3, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    offset = torch.zeros(2, 18, 5, 4)
    if modulated:
        mask = torch.ones(2, 9, 5, 4)
        output = modulated_deform_conv2d(image, offset, mask, weight, bias, 2, 1, 1, 2, 1)
    else:
        output = deform_conv2d(image, offset, weight, 2, 1, 1, 2, 1) + bias.view(1, -1, 1, 1)
    expected = F.conv2d(image, weight, bias, stride=2, padding=1, groups=2)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (image, weight, bias), upstream)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, (image, weight, bias), upstream), strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


def test_gradients_of_offsets_and_masks_are_those_of_finite_differences():
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    torch.manual_seed(0)
    image = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    # Away from integers, where bilinear interpolation has a kink.
    offset = (0.2 + 0.6 * torch.rand(1, 12, 4, 4, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(1, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, o, w: deform_conv2d(x, o, w, 1, (0, 1), 1, 1, 1), (image, offset, weight))
    assert torch.autograd.gradcheck(
        lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, 1, (0, 1), 1, 1, 1),
        (image, offset, mask, weight, bias),
    )


def test_an_operator_without_equivalent_says_which_and_what_to_install():
    from mmcv.ops import nms_rotated

    with pytest.raises(mmcv_ops.MissingOperatorError, match=r"'nms_rotated'.*pip install .*onedl-mmcv"):
        nms_rotated(torch.ones(2, 5), torch.ones(2), 0.5)


def test_mmengine_sees_the_operators():
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_full_available()
    assert mmcv_ops.install() is True


def test_a_loaded_compiled_extension_stays(monkeypatch):
    compiled = types.ModuleType("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert mmcv_ops.install() is False
    assert sys.modules["mmcv._ext"] is compiled


def test_a_compiled_extension_on_disk_is_left_to_mmcv(monkeypatch, tmp_path):
    import mmcv

    (tmp_path / "_ext.py").write_text("")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    assert mmcv_ops.install() is False
    assert "mmcv._ext" not in sys.modules


def test_installs_although_mmcv_was_imported_before(monkeypatch):
    import mmcv

    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.delattr(mmcv, "_ext")
    assert mmcv_ops.install() is True
    assert mmcv._ext is sys.modules["mmcv._ext"]
    assert callable(mmcv._ext.nms)


def test_modules_imported_without_operators_get_them():
    """In a process of its own: mmdet first, then the operators."""
    code = (
        "import mmdet.structures.mask.structures as masks\n"
        "assert masks.roi_align.__module__ == masks.__name__, 'nothing to mend'\n"
        "import dynamicvis.mm, mmcv.ops, mmdet.models\n"
        "assert masks.roi_align is mmcv.ops.roi_align\n"
        "import numpy, torch\n"
        "mask = masks.BitmapMasks(numpy.ones((1, 4, 4), 'uint8'), 4, 4)\n"
        "print(mask.crop_and_resize(numpy.array([[0., 0., 4., 4.]]), (2, 2), numpy.array([0])).masks.sum())\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["4"]), result.stderr
