"""The reference's change detection, which is written for open-cd: its names, in the scopes ``opencd`` and ``mmseg``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mmseg.registry
import torch
from mmdet.models import FPN
from mmengine.model import BaseModule, ModuleList
from mmseg.models import EncoderDecoder
from torch import Tensor

from dynamicvis.mm.change.decoder import ConcatFusion, MLPSegHead, UNetDecoder
from dynamicvis.mm.preprocessing.segmentation import SegDataPreProcessor
from dynamicvis.mm.reference.arguments import require
from dynamicvis.mm.reference.scopes import OPENCD

Maps = Sequence[Tensor]


OPENCD_MODELS = OPENCD["MODELS"]


def _register(module: type) -> type:
    for registry in (OPENCD_MODELS, mmseg.registry.MODELS):
        registry.register_module(module=module)
    return module


@_register
class SiamEncoderDecoder(EncoderDecoder):
    """One backbone for both dates, then ``neck`` on their maps.

    Args:
        backbone_inchannels: bands of one date.
        **settings: as of mmseg's ``EncoderDecoder``; ``neck`` takes the maps of both dates.
    """

    def __init__(self, *arguments: Any, backbone_inchannels: int = 3, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.backbone_inchannels = backbone_inchannels

    def extract_feat(self, inputs: Tensor) -> Maps:
        """Maps of the change from pairs (B, 2C, H, W)."""
        first, second = torch.split(inputs, self.backbone_inchannels, dim=1)
        return self.neck(self.backbone(first), self.backbone(second))


@_register
class DualInputSegDataPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor for pairs of images, bands of the first date, then of the second.

    Args:
        bgr_to_rgb: reverse the three bands of either date.
        **settings: as of `dynamicvis.SegDataPreProcessor`.
    """

    def __init__(self, *, bgr_to_rgb: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.bgr_to_rgb = bgr_to_rgb

    def forward(self, data: dict, training: bool = False) -> dict:
        """As mmseg's."""
        if self.bgr_to_rgb:
            data = {**data, "inputs": [_reverse_bands(image) for image in data["inputs"]]}
        return super().forward(data, training)


def _reverse_bands(image: Tensor) -> Tensor:
    if len(image) != 6:
        raise ValueError(f"bgr_to_rgb is for two dates of three bands, got {len(image)} bands; set it to False")
    return image[[2, 1, 0, 5, 4, 3]]


@_register
class SequentialNeck(BaseModule):
    """Necks in a row, each called with what the one before returned as its arguments.

    Args:
        necks: their configs.
        init_cfg: of MMEngine.
    """

    def __init__(self, necks: Sequence[Mapping[str, Any]], init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.necks = ModuleList(OPENCD_MODELS.build(dict(neck)) for neck in necks)

    def forward(self, *inputs: Any) -> Any:
        """What the last one returns."""
        for neck in self.necks:
            inputs = neck(*inputs)
        return inputs


@_register
class DualInputsFPN(FPN):
    """mmdet's ``FPN`` with the same weights for the maps of both dates."""

    def forward(self, first: Maps, second: Maps) -> tuple[Maps, Maps]:
        """Pyramids of either date."""
        both = super().forward(tuple(torch.cat(pair) for pair in zip(first, second, strict=True)))
        split = [level.chunk(2) for level in both]
        return tuple(level[0] for level in split), tuple(level[1] for level in split)


@_register
class DualInputsSimpleFusionNeck(ConcatFusion):
    """`dynamicvis.ConcatFusion`.

    Args:
        in_channels: channels of every level of one date.
        return_tuple: return the maps as the single argument of the next neck.
        init_cfg: of MMEngine.
    """

    def __init__(self, in_channels: Sequence[int], return_tuple: bool = False, init_cfg: Any = None) -> None:
        super().__init__(in_channels, init_cfg=init_cfg)
        self.return_tuple = return_tuple

    def forward(self, first: Maps, second: Maps) -> Any:
        """Maps of the change; in a tuple with ``return_tuple``."""
        maps = super().forward(first, second)
        return (maps,) if self.return_tuple else maps


@_register
class UNetDecodeNeck(UNetDecoder):
    """`dynamicvis.UNetDecoder`.

    Args:
        in_channels, dec_num_convs, norm_cfg, init_cfg: as there.
        dec_dilations, with_cp, conv_cfg, act_cfg, upsample_cfg, norm_eval: only the values of the released configs.

    Raises:
        UnsupportedSetting: another value of those.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 256, 256, 256, 256),
        dec_num_convs: Sequence[int] = (2, 2, 2, 2),
        dec_dilations: Sequence[int] = (1, 1, 1, 1),
        with_cp: bool = False,
        conv_cfg: Any = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        upsample_cfg: Mapping[str, Any] = {"type": "InterpConv"},
        norm_eval: bool = False,
        init_cfg: Any = None,
    ) -> None:
        name = "UNetDecodeNeck"
        require(name, "dec_dilations", dec_dilations, [1] * len(dec_num_convs))
        require(name, "with_cp", with_cp, False)
        require(name, "conv_cfg", conv_cfg, None)
        require(name, "act_cfg", act_cfg, {"type": "ReLU"})
        require(name, "upsample_cfg", upsample_cfg, {"type": "InterpConv"}, {"type": "mmseg.InterpConv"})
        require(name, "norm_eval", norm_eval, False)
        super().__init__(in_channels, dec_num_convs, norm_cfg, init_cfg)


class ReferenceMLPSegHead(MLPSegHead):
    """`dynamicvis.MLPSegHead`, whose maps follow the size of the input.

    Args:
        out_size: not needed, and ignored.
        **settings: as there. mmseg's ``DiceLoss`` without arguments but its weight is the softmax form that it was in
            the reference's mmseg, `dynamicvis.SoftDiceLoss`.
    """

    def __init__(self, *, loss_decode: Any, out_size: Any = None, **settings: Any) -> None:
        losses = [loss_decode] if isinstance(loss_decode, Mapping) else loss_decode
        super().__init__(loss_decode=[_soft_dice(loss) for loss in losses], **settings)


def _soft_dice(loss: Mapping[str, Any]) -> dict[str, Any]:
    if loss["type"] in ("DiceLoss", "mmseg.DiceLoss") and set(loss) <= {"type", "loss_weight", "loss_name"}:
        return {**loss, "type": "dynamicvis.SoftDiceLoss"}
    return dict(loss)


OPENCD_MODELS.register_module(name="MLPSegHead", module=ReferenceMLPSegHead)
