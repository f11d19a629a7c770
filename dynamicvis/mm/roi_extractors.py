"""The region features of pretraining as RoI extractor of mmdet's two-stage detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule

from dynamicvis.pretraining import RegionExtractor
from dynamicvis.registry import MODELS


@MODELS.register_module()
class RegionRoIExtractor(RegionExtractor, BaseModule):
    """``type="dynamicvis.RegionRoIExtractor"`` for ``bbox_roi_extractor`` and ``mask_roi_extractor``.

    Parameter names are those of :class:`dynamicvis.pretraining.RegionExtractor`, so that
    ``init_cfg=dict(type="Pretrained", checkpoint=PATH, prefix="neck.")`` takes the weights of a pretraining run.

    Args:
        out_channels: channels of the neck's maps and of the result.
        output_size: edge of the result: 7 for boxes, 14 for masks.
        featmap_strides: strides of the maps that are read.
        sampling_ratio: RoIAlign's samples a bin and axis.
        init_cfg: of MMEngine.
    """

    def __init__(
        self,
        out_channels: int = 256,
        output_size: int = 7,
        featmap_strides: Sequence[int] = (4, 8, 16, 32),
        sampling_ratio: int = 2,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(out_channels, output_size, featmap_strides, sampling_ratio)
        self.init_cfg = init_cfg
        self.out_channels = out_channels
        self.featmap_strides = self.strides

    @property
    def num_inputs(self) -> int:
        """Number of maps that are read."""
        return len(self.strides)
