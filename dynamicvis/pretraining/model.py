"""The whole model of pretraining."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dynamicvis.pretraining.head import RegionHead
from dynamicvis.pretraining.region_features import FeaturePyramid, RegionExtractor


class RegionClassifier(nn.Module):
    """Classes of given regions: backbone, pyramid, region features, spatial mean, head.

    The submodules are named ``backbone``, ``pre_neck``, ``neck`` and ``head`` as in the reference's checkpoints.

    Args:
        backbone: gives maps of strides 4, 8, 16, 32 of images (batch, bands, height, width).
        in_channels: channels of the maps.
        head: see `RegionHead`; its ``channels`` are those of the pyramid.

    Source: arXiv 2503.16426, section 3.4.
    """

    def __init__(self, backbone: nn.Module, in_channels: Sequence[int], head: RegionHead) -> None:
        super().__init__()
        channels = head.fc.in_features
        self.backbone = backbone
        self.pre_neck = FeaturePyramid(in_channels, channels)
        self.neck = RegionExtractor(channels)
        self.head = head

    def features(self, images: Tensor, regions: Tensor) -> Tensor:
        """Features of regions.

        Args:
            images: (batch, bands, height, width), normalised.
            regions: (count, 5): image number, left, top, right, bottom in pixels; see `to_regions`.

        Returns:
            (count, channels).
        """
        return self.neck(self.pre_neck(self.backbone(images)), regions).mean(dim=(2, 3))

    def forward(self, images: Tensor, regions: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Class logits (count, num_classes) of regions; with ``labels`` (count,) the losses of `RegionHead.loss`."""
        features = self.features(images, regions)
        return self.head(features) if labels is None else self.head.loss(features, labels)
