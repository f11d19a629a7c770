"""From the maps of two dates to maps of the change between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from dynamicvis.registry import MODELS

_BATCH_NORM = {"type": "BN"}


@MODELS.register_module()
class ConcatFusion(BaseModule):
    """Per level: both dates concatenated, 1x1 convolution to the channels of one, normalisation, ReLU.

    Args:
        in_channels: channels of every level of one date.
        norm_cfg: config of the normalisation.
        difference: begin as a projection of the difference of the dates: the weights of the second are the negatives
            of the first's, until training moves them. A model from scratch then finds change in a few epochs, where
            it otherwise has to find out first that it is differences which matter.
        init_cfg: as for every module of MMEngine.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        norm_cfg: Mapping[str, Any] = _BATCH_NORM,
        difference: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        self.difference = difference
        self.convs = nn.ModuleList(
            ConvModule(2 * channels, channels, 1, norm_cfg=dict(norm_cfg)) for channels in in_channels
        )

    def init_weights(self) -> None:
        """As every module of MMEngine, and then as a difference where that is asked for."""
        super().init_weights()
        if self.difference:
            for conv in self.convs:
                first, second = conv.get_parameter("conv.weight").data.chunk(2, dim=1)
                second.copy_(-first)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the change: level i (B, C_i, H_i, W_i), as the two it is made of.

        Raises:
            ValueError: the dates have another number of levels than ``in_channels``.
        """
        if not len(first) == len(second) == len(self.convs):
            raise ValueError(
                f"ConcatFusion has in_channels for {len(self.convs)} levels, got {len(first)} and {len(second)}"
            )
        return tuple(conv(torch.cat(pair, dim=1)) for conv, *pair in zip(self.convs, first, second, strict=True))


@MODELS.register_module()
class UNetDecoder(BaseModule):
    """Decoder of a U-Net on the levels of a pyramid.

    From the coarsest level on, each step brings the result to the size of the next level by bilinear interpolation
    and a 1x1 convolution, concatenates that level, and applies 3x3 convolutions. Sizes follow the levels at hand,
    whatever the ratio between them.

    Args:
        in_channels: channels of the levels, fine to coarse; the channels of a step's result are those of its level.
        dec_num_convs: number of 3x3 convolutions of each step, coarse to fine, one fewer than the levels.
        norm_cfg: config of the normalisation.
        init_cfg: as for every module of MMEngine.

    Raises:
        ValueError: ``dec_num_convs`` does not fit ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dec_num_convs: Sequence[int] = (2, 2, 2, 2),
        norm_cfg: Mapping[str, Any] = _BATCH_NORM,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(dec_num_convs) != len(in_channels) - 1 or min(dec_num_convs, default=1) < 1:
            raise ValueError(
                f"dec_num_convs must be positive, one for each of {len(in_channels) - 1} steps between the levels, "
                f"got {tuple(dec_num_convs)}"
            )
        norm = dict(norm_cfg)
        coarse_to_fine = list(reversed(in_channels))
        self.upsample_convs = nn.ModuleList()
        self.steps = nn.ModuleList()
        for below, channels, count in zip(coarse_to_fine, coarse_to_fine[1:], dec_num_convs, strict=False):
            self.upsample_convs.append(ConvModule(below, channels, 1, norm_cfg=norm))
            self.steps.append(
                nn.Sequential(
                    *(
                        ConvModule(channels if index else 2 * channels, channels, 3, padding=1, norm_cfg=norm)
                        for index in range(count)
                    )
                )
            )

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As many maps as ``levels`` (fine to coarse) has, of the same sizes, coarse to fine."""
        *rest, decoded = levels
        outputs = [decoded]
        for upsample, step, level in zip(self.upsample_convs, self.steps, reversed(rest), strict=True):
            enlarged = F.interpolate(decoded, size=level.shape[2:], mode="bilinear", align_corners=False)
            decoded = step(torch.cat([level, upsample(enlarged)], dim=1))
            outputs.append(decoded)
        return tuple(outputs)


@MODELS.register_module()
class MLPSegHead(BaseDecodeHead):
    """Every level through its own 1x1 convolution, all at the size of the finest, concatenated, fused and classified.

    The size is that of the input at hand, so an image of any size can be segmented after training on crops.

    Args:
        in_channels: channels of the levels.
        in_index: positions of the levels in the input.
        **settings: as for mmseg's ``BaseDecodeHead``; ``channels`` are those of every level after its convolution.
    """

    def __init__(self, in_channels: Sequence[int], in_index: Sequence[int], **settings: Any) -> None:
        super().__init__(
            in_channels=list(in_channels), in_index=list(in_index), input_transform="multiple_select", **settings
        )
        layer = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.convs = nn.ModuleList(ConvModule(channels, self.channels, 1, **layer) for channels in self.in_channels)
        self.fusion_conv = ConvModule(self.channels * len(self.convs), self.channels, 1, **layer)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W) at the size of the finest of the levels."""
        levels = self._transform_inputs(inputs)
        size = max((level.shape[2:] for level in levels), key=lambda shape: shape[0] * shape[1])
        maps = [
            F.interpolate(conv(level), size=size, mode="bilinear", align_corners=self.align_corners)
            for conv, level in zip(self.convs, levels, strict=True)
        ]
        return self.cls_seg(self.fusion_conv(torch.cat(maps, dim=1)))
