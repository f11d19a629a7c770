"""``mmcv.ops`` without a compiler: the operators of ``mmcv._ext`` that torchvision has an equivalent of.

MMCV installed from a wheel without compiled operators cannot even import ``mmcv.ops``. :func:`install` puts a module in
the place of the missing extension. Signatures below are those MMCV calls, output tensors filled in place included.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any, NamedTuple

import torch
from torch import Tensor


class MissingOperatorError(NotImplementedError):
    """An MMCV operator was called that needs MMCV's compiled extension."""

    def __init__(self, operator: str) -> None:
        super().__init__(
            f"mmcv operator '{operator}' has no equivalent in torchvision and this MMCV was installed without compiled "
            "operators; build them from source with "
            "`pip install --no-cache-dir --no-build-isolation --force-reinstall --no-deps onedl-mmcv`"
        )


class _Geometry(NamedTuple):
    """Of a convolution, (vertical, horizontal) each."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of kept boxes (N, 4), best first; with ``offset`` 1 the lower right pixel belongs to the box."""
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return _torchvision_ops().nms(boxes.float(), scores.float(), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS with hard (0), linear (1) or Gaussian (2) decay; fills ``dets`` (N, 5), returns the kept indices."""
    candidates = torch.arange(len(scores))
    scores = scores.clone()
    kept: list[int] = []
    while len(candidates):
        best = int(scores[candidates].argmax())
        index = candidates[best]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[index], scores[index]
        kept.append(int(index))
        candidates = torch.cat([candidates[:best], candidates[best + 1 :]])
        iou = _iou(boxes[index], boxes[candidates], offset)
        if method == 0:
            weight = (iou < iou_threshold).to(scores)
        elif method == 1:
            weight = torch.where(iou >= iou_threshold, 1 - iou, torch.ones_like(iou))
        else:
            weight = torch.exp(-iou * iou / sigma)
        scores[candidates] *= weight
        candidates = candidates[scores[candidates] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode != 1:
        raise MissingOperatorError("roi_align with pool_mode='max'")
    size = (aligned_height, aligned_width)
    output.copy_(_torchvision_ops().roi_align(input, rois.to(input), size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode != 1:
        raise MissingOperatorError("roi_align with pool_mode='max'")
    size = (aligned_height, aligned_width)
    # RoIAlign with average pooling is linear in its input, so the gradient does not depend on the input's values.
    with torch.enable_grad():
        image = torch.zeros_like(grad_input, requires_grad=True)
        output = _torchvision_ops().roi_align(image, rois.to(image), size, spatial_scale, sampling_ratio, aligned)
        (gradient,) = torch.autograd.grad(output, image, grad)
    grad_input.copy_(gradient)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (N, classes) of logits; ``target`` (N,) holds classes, ``classes`` itself for background."""
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    def forward(logits: Tensor) -> Tensor:
        return _focal_loss(logits, target, weight, gamma, alpha)

    _fill_gradients(forward, (input,), torch.ones_like(input), (grad_input,))


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **geometry: int
) -> None:
    output.copy_(_deform_conv(input, weight, offset, geometry=_from_v1(geometry)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    def forward(image: Tensor, shift: Tensor) -> Tensor:
        return _deform_conv(image, weight, shift, geometry=_from_v1(geometry))

    _fill_gradients(forward, (input, offset), grad_output, (grad_input, grad_offset))


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    def forward(weight: Tensor) -> Tensor:
        return _deform_conv(input, weight, offset, geometry=_from_v1(geometry))

    gradient = torch.empty_like(grad_weight)
    _fill_gradients(forward, (torch.zeros_like(grad_weight),), grad_output, (gradient,))
    grad_weight.add_(gradient, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    output.copy_(_deform_conv(input, weight, offset, mask, geometry=_from_v2(geometry)))
    if with_bias:
        output.add_(bias.view(1, -1, 1, 1))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    def forward(*tensors: Tensor) -> Tensor:
        return _deform_conv(*tensors, geometry=_from_v2(geometry))

    targets = (grad_input, grad_weight, grad_offset, grad_mask)
    _fill_gradients(forward, (input, weight, offset, mask), grad_output, targets)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


_OPERATORS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        softnms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    )
}


class _Extension(types.ModuleType):
    """The module that stands in for ``mmcv._ext``: every other name is an operator that raises when called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> None:
            raise MissingOperatorError(name)

        return missing


def install() -> bool:
    """Provide ``mmcv._ext`` where MMCV is present without it.

    Safe to call more than once, and after ``mmcv``, mmdet and the like were imported: what they put in the place of the
    operators they lacked is replaced. A compiled extension never is.

    Returns:
        True when the operators of this module are in use.
    """
    present = sys.modules.get("mmcv._ext")
    if present is not None:
        return isinstance(present, _Extension)
    if importlib.util.find_spec("mmcv") is None or importlib.util.find_spec("mmcv._ext") is not None:
        return False
    import mmcv

    module = _Extension("mmcv._ext")
    module.__dict__.update(_OPERATORS)
    module.__spec__ = ModuleSpec("mmcv._ext", None)  # MMEngine asks find_spec whether operators exist
    sys.modules["mmcv._ext"] = module
    mmcv._ext = module
    _replace_stand_ins()
    return True


def _replace_stand_ins() -> None:
    """Replace the functions and classes that raise for lack of operators, in modules imported before there were any."""
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] not in ("mmdet", "mmseg", "mmpretrain", "mmrotate"):
            continue
        for attribute, value in list(vars(module).items()):
            if getattr(value, "__module__", None) == name and _is_stand_in(value):
                import mmcv.ops

                setattr(module, attribute, getattr(mmcv.ops, attribute.lstrip("_")))


def _is_stand_in(value: Any) -> bool:
    function = value.__dict__.get("__init__") if isinstance(value, type) else value
    code = getattr(function, "__code__", None)
    texts = () if code is None else [text for text in code.co_consts if isinstance(text, str)]
    return any("requires mmcv to be compiled with ops" in text for text in texts)


def _torchvision_ops() -> types.ModuleType:
    """``torchvision.ops``, imported at the first call: it costs a second that building a model need not pay."""
    import torchvision

    return torchvision.ops


def _iou(box: Tensor, others: Tensor, offset: int) -> Tensor:
    top_left = torch.maximum(box[:2], others[:, :2])
    bottom_right = torch.minimum(box[2:], others[:, 2:])
    intersection = (bottom_right - top_left + offset).clamp(min=0).prod(dim=1)
    areas = (others[:, 2:] - others[:, :2] + offset).prod(dim=1)
    return intersection / ((box[2:] - box[:2] + offset).prod() + areas - intersection)


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    if weight.numel():
        raise MissingOperatorError("sigmoid_focal_loss with weights of classes")
    classes = logits.shape[1]
    present = torch.nn.functional.one_hot(target, classes + 1)[:, :classes].to(logits)
    return _torchvision_ops().sigmoid_focal_loss(logits, present, alpha, gamma)


def _deform_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    *,
    geometry: _Geometry,
) -> Tensor:
    stride, padding, dilation = geometry
    return _torchvision_ops().deform_conv2d(input, offset, weight, None, stride, padding, dilation, mask)


def _from_v1(geometry: dict[str, int]) -> _Geometry:
    """From the keyword names of DCN v1; torchvision infers the groups from the shapes."""
    stride, padding, dilation = ((geometry[f"{name}H"], geometry[f"{name}W"]) for name in ("d", "pad", "dilation"))
    return _Geometry(stride, padding, dilation)


def _from_v2(geometry: dict[str, int]) -> _Geometry:
    """From the keyword names of DCN v2."""
    stride, padding, dilation = (
        (geometry[f"{name}_h"], geometry[f"{name}_w"]) for name in ("stride", "pad", "dilation")
    )
    return _Geometry(stride, padding, dilation)


def _fill_gradients(
    forward: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad_output: Tensor, targets: tuple[Tensor, ...]
) -> None:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        gradients = torch.autograd.grad(forward(*leaves), leaves, grad_output)
    for target, gradient in zip(targets, gradients, strict=True):
        target.copy_(gradient)
