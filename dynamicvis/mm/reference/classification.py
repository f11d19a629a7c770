"""The reference's heads and its pretraining model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.structures import DetDataSample
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor

from dynamicvis import pretraining
from dynamicvis.mm.pretraining import RegionClassifier
from dynamicvis.mm.reference.arguments import UnsupportedSetting, require


@MODELS.register_module()
class DynamicVisClsHead(LinearClsHead):
    """mmpretrain's ``LinearClsHead``.

    Args:
        load_balancing_loss_cfg: None.
        **settings: as of ``LinearClsHead``.

    Raises:
        UnsupportedSetting: with ``load_balancing_loss_cfg``, which fails in the reference as well.
    """

    def __init__(
        self, *arguments: Any, load_balancing_loss_cfg: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        if load_balancing_loss_cfg is not None:
            raise UnsupportedSetting(
                "DynamicVisClsHead",
                "load_balancing_loss_cfg",
                dict(load_balancing_loss_cfg),
                'add dict(type="dynamicvis.RouterBalanceHook") to custom_hooks instead',
            )
        super().__init__(*arguments, **settings)


@MODELS.register_module()
class DynamicVisPretrainClsHead(pretraining.RegionHead):
    """`dynamicvis.pretraining.RegionHead`.

    Args:
        num_classes: number of classes.
        in_channels: of the features.
        with_mil: contrast regions with category embeddings, too.
        mil_weight: of the contrast.
        loss: config of the classification loss: ``LabelSmoothLoss`` in mode ``"original"``, or ``CrossEntropyLoss``.
        use_horovod, init_cfg: ignored: processes are torch's, and the initialisation is our own.

    Raises:
        UnsupportedSetting: another loss.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        with_mil: bool = False,
        mil_weight: float = 0.5,
        use_horovod: bool = False,
        loss: Mapping[str, Any] = {"type": "CrossEntropyLoss", "loss_weight": 1.0},
        init_cfg: Any = None,
    ) -> None:
        super().__init__(num_classes, in_channels, _label_smoothing(dict(loss)), mil_weight if with_mil else 0.0)


def _label_smoothing(loss: dict[str, Any]) -> float:
    name = "DynamicVisPretrainClsHead"
    kind = loss.pop("type").removeprefix("mmpretrain.")
    require(name, "loss's type", kind, "LabelSmoothLoss", "CrossEntropyLoss")
    require(name, "loss_weight", loss.pop("loss_weight", 1.0), 1.0)
    smoothing = 0.0
    if kind == "LabelSmoothLoss":
        smoothing = loss.pop("label_smooth_val")
        require(name, "loss's mode", loss.pop("mode", "original"), "original")
    for key, value in loss.items():
        raise UnsupportedSetting(name, f"loss's {key}", value, "remove it")
    return smoothing


@MODELS.register_module()
class DynamicVisPretrainClassifier(RegionClassifier):
    """`dynamicvis.RegionClassifier` by the reference's configs.

    Args:
        backbone: config of the backbone.
        pre_neck: config of an ``FPN`` with five levels.
        neck: config of a ``GenericRoIExtractor`` as in the released configs.
        head: config of a ``DynamicVisPretrainClsHead``.
        data_preprocessor: config of a preprocessor for detection.
        init_cfg: of MMEngine.

    Raises:
        UnsupportedSetting: a setting of ``pre_neck`` or ``neck`` without an equivalent.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        pre_neck: Mapping[str, Any],
        neck: Mapping[str, Any],
        head: Mapping[str, Any],
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        wanted = MODELS.build(head)
        channels, classes = wanted.fc.in_features, wanted.fc.out_features
        _check_pyramid(dict(pre_neck), channels)
        _check_extractor(dict(neck), channels)
        super().__init__(
            backbone,
            pre_neck["in_channels"],
            classes,
            data_preprocessor or {"type": "mmdet.DetDataPreprocessor"},
            channels,
            wanted.label_smoothing,
            wanted.contrast_weight,
            init_cfg=init_cfg,
        )

    def forward(  # type: ignore[override]
        self, inputs: Tensor, data_samples: Sequence[DetDataSample], mode: str = "tensor"
    ) -> Any:
        """As there; predictions also have ``gt_label`` and ``pred_label`` (regions,) for mmpretrain's metrics."""
        results = super().forward(inputs, data_samples, mode)
        if mode == "predict":
            for sample in data_samples:
                sample.set_field(sample.gt_instances.labels, "gt_label")
                sample.set_field(sample.pred_instances.labels, "pred_label")
        return results


def _check_pyramid(settings: dict[str, Any], channels: int) -> None:
    require("pre_neck", "type", settings.pop("type").removeprefix("mmdet."), "FPN")
    require("pre_neck", "out_channels", settings.pop("out_channels"), channels)
    require("pre_neck", "num_outs", settings.pop("num_outs"), 5)
    settings.pop("in_channels")
    _refuse_rest("pre_neck", settings)


def _check_extractor(settings: dict[str, Any], channels: int) -> None:
    convolution = {"type": "ConvModule", "kernel_size": 5, "padding": 2, "inplace": False}
    attention = {"type": "GeneralizedAttention", "spatial_range": -1, "num_heads": 6, "attention_type": "0100"}
    align = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 2}
    require("neck", "type", settings.pop("type").removeprefix("mmdet."), "GenericRoIExtractor")
    require("neck", "aggregation", settings.pop("aggregation", "sum"), "sum")
    require("neck", "out_channels", settings.pop("out_channels"), channels)
    require("neck", "featmap_strides", settings.pop("featmap_strides"), [4, 8, 16, 32])
    roi_layer = {key: value for key, value in settings.pop("roi_layer").items() if key != "use_torchvision"}
    require("neck", "roi_layer", roi_layer, align)
    sizes = {"in_channels": channels, "out_channels": channels}
    require("neck", "pre_cfg", settings.pop("pre_cfg"), convolution | sizes)
    require("neck", "post_cfg", settings.pop("post_cfg"), attention | {"in_channels": channels, "kv_stride": 2})
    _refuse_rest("neck", settings)


def _refuse_rest(owner: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if key != "init_cfg" or value is not None:
            raise UnsupportedSetting(owner, key, value, "remove it")
