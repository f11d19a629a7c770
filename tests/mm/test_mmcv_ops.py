from __future__ import annotations

import math
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
