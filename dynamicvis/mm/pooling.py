"""Neck between the backbone and an image-level head."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from dynamicvis.registry import MODELS
from dynamicvis.retrieval import spatial_mean


@MODELS.register_module()
class MeanPoolNorm(BaseModule):
    """Spatial mean of the last map, then layer norm: what stands between the backbone and a scene classifier.

    The reference has this norm inside its backbone (``out_type="avg_featmap"``), as ``backbone.post_meanpool_norm.*``;
    here it is ``neck.post_meanpool_norm.*``.

    Args:
        in_channels: channels of the last map.

    Source: arXiv 2503.16426, section 4.3 (scene classification).
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.post_meanpool_norm = nn.LayerNorm(in_channels, eps=1e-6)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Maps, the last one (B, in_channels, H, W) -> one tensor (B, in_channels)."""
        return (self.post_meanpool_norm(spatial_mean(maps)),)
