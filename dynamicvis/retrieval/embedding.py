"""From feature maps to one vector an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def spatial_mean(maps: Sequence[Tensor]) -> Tensor:
    """Mean over the pixels of the last of several maps, (B, C, H, W) -> (B, C)."""
    return maps[-1].mean(dim=(2, 3))


def embed(backbone: nn.Module, images: Tensor) -> Tensor:
    """Embeddings of images by a frozen backbone: the mean of its last map, without any norm behind it.

    Args:
        backbone: a model whose forward gives maps, such as `dynamicvis.create_backbone`; it is used as it is, so call
            ``backbone.eval()`` first.
        images: (B, C, H, W), normalised as the backbone was trained.

    Returns:
        (B, D), no gradients.
    """
    with torch.no_grad():
        return spatial_mean(backbone(images))
