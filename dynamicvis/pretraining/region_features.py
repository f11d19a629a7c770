"""From feature maps to the features of regions: pyramid, RoIAlign on all levels, attention.

Parameters carry the names of mmdet's ``FPN`` and ``GenericRoIExtractor``, which the reference's checkpoints use.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WAVE_LENGTH = 1000.0


def to_regions(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of a batch as one tensor.

    Args:
        boxes: one (count, 4) tensor an image: left, top, right, bottom, pixels; a count may be 0.

    Returns:
        (regions, 5): the image's number in the batch, left, top, right, bottom.
    """
    return torch.cat([torch.cat([box.new_full((len(box), 1), i), box], dim=1) for i, box in enumerate(boxes)])


class FeaturePyramid(nn.Module):
    """Feature pyramid network with nearest-neighbour upsampling, and one more level by subsampling the last.

    Args:
        in_channels: channels of the maps, finest first.
        out_channels: channels of every output.

    Source: Lin et al. 2017, arXiv 1612.03144.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.lateral_convs = nn.ModuleList(_conv(channels, out_channels, 1) for channels in in_channels)
        self.fpn_convs = nn.ModuleList(_conv(out_channels, out_channels, 3) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (batch, in_channels[i], h, w) -> as many (batch, out_channels, h, w), and one of half size."""
        laterals = [lateral(level) for lateral, level in zip(self.lateral_convs, maps, strict=True)]
        for i in reversed(range(len(laterals) - 1)):
            laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], size=laterals[i].shape[2:], mode="nearest")
        levels = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=True)]
        return (*levels, F.max_pool2d(levels[-1], 1, stride=2))


class PositionAttention(nn.Module):
    """Attention of every place of a map to a grid of others, by what the place holds and where the others lie.

    The term "query content and relative position" of generalized attention (type 0100). The energy is a sum of a
    horizontal and a vertical part, so the softmax over the grid is the product of one over its columns and one over
    its rows. The vertical part of the place in row y and column x comes from the query in row x and column y: so does
    mmcv's ``GeneralizedAttention`` for this type, and the reference's weights were trained with it.

    Args:
        channels: of the map; heads take ``channels // heads`` each.
        heads: attention heads.
        kv_stride: step of the grid attended to.

    Source: Zhu et al. 2019, arXiv 1904.05873.
    """

    def __init__(self, channels: int = 256, heads: int = 6, kv_stride: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.heads = heads
        self.kv_stride = kv_stride
        inner = channels // heads * heads
        self.query_conv = nn.Conv2d(channels, inner, 1, bias=False)
        self.value_conv = nn.Conv2d(channels, inner, 1, bias=False)
        self.appr_geom_fc_x = nn.Linear(channels // 2, inner, bias=False)
        self.appr_geom_fc_y = nn.Linear(channels // 2, inner, bias=False)
        self.proj_conv = nn.Conv2d(inner, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        for module in self.children():
            layer = cast(nn.Conv2d, module)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(count, channels, edge, edge) -> the same shape: the input plus ``gamma`` times what was attended to."""
        edge = maps.shape[2]
        # count, heads, y, x, depth of a head
        query = self.query_conv(maps).unflatten(1, (self.heads, -1)).permute(0, 1, 3, 4, 2)
        columns = self._positions(edge, self.appr_geom_fc_x, maps)  # heads, x, x of the grid, depth
        rows = self._positions(edge, self.appr_geom_fc_y, maps)
        across = torch.einsum("nhyxd,hxad->nhyxa", query, columns).softmax(-1)
        along = torch.einsum("nhxyd,hyad->nhyxa", query, rows).softmax(-1)
        attention = (along.unsqueeze(-1) * across.unsqueeze(-2)).flatten(4).flatten(2, 3)  # count, heads, y * x, grid
        value = self.value_conv(maps[:, :, :: self.kv_stride, :: self.kv_stride]).unflatten(1, (self.heads, -1))
        out = (attention @ value.flatten(3).transpose(2, 3)).transpose(2, 3)  # count, heads, depth, y * x
        return maps + self.gamma * self.proj_conv(out.flatten(1, 2).unflatten(2, (edge, edge)))

    def _positions(self, size: int, projection: nn.Module, maps: Tensor) -> Tensor:
        """(heads, size, grid, depth): projected sines and cosines of the offsets along one axis."""
        # In float32 at least: bfloat16 holds no offset times frequency well enough.
        dtype = torch.promote_types(maps.dtype, torch.float32)
        places = torch.arange(size, device=maps.device, dtype=dtype)
        offsets = (places[:, None] - places[:: self.kv_stride]).unsqueeze(-1)
        frequencies = torch.arange(self.channels // 4, device=maps.device, dtype=dtype) * (4 / self.channels)
        angles = offsets / _WAVE_LENGTH**frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=-1).to(maps.dtype)
        return (projection(embedding) / math.sqrt(2)).unflatten(-1, (self.heads, -1)).permute(2, 0, 1, 3)


class RegionExtractor(nn.Module):
    """Features of regions from all levels at once: RoIAlign and a convolution on each, their sum, and attention.

    Args:
        channels: of the maps and of the result.
        size: edge of the result: 7 for classes and boxes, 14 for masks.
        strides: pixels of the image per step of each map that is read; further maps are left alone.
        sampling: RoIAlign's samples a bin and axis.
        heads: heads of the attention.

    Source: arXiv 2503.16426, section 3.4; Rossi et al. 2020, arXiv 2004.13665.
    """

    def __init__(
        self,
        channels: int = 256,
        size: int = 7,
        strides: Sequence[int] = (4, 8, 16, 32),
        sampling: int = 2,
        heads: int = 6,
    ) -> None:
        super().__init__()
        self.size = size
        self.strides = tuple(strides)
        self.sampling = sampling
        self.pre_module = _conv(channels, channels, 5)
        self.pre_module.append(nn.ReLU())
        self.post_module = PositionAttention(channels, heads)
        convolution = cast(nn.Conv2d, self.pre_module.conv)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(cast(Tensor, convolution.bias))

    def forward(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Features of regions.

        Args:
            maps: one (batch, channels, h_i, w_i) a stride, finest first; more than that are not read.
            regions: (count, 5): the image's number in the batch, left, top, right, bottom in pixels; see `to_regions`.

        Returns:
            (count, channels, size, size); ``count`` may be 0.

        Raises:
            ValueError: fewer maps than strides, or regions of another shape.
        """
        from torchvision.ops import roi_align  # at the point of use: torchvision takes two seconds to import

        if len(maps) < len(self.strides):
            raise ValueError(f"a map for each of the strides {self.strides} is needed, got {len(maps)} maps")
        if regions.ndim != 2 or regions.shape[1] != 5:
            raise ValueError(
                f"regions must be (count, 5): image number, left, top, right, bottom; got {tuple(regions.shape)}"
            )
        features: list[Tensor] = []
        for level, stride in zip(maps, self.strides, strict=False):
            # In float32 at least: bfloat16 moves the corner of a box by up to two pixels at 512.
            dtype = torch.promote_types(level.dtype, torch.float32)
            aligned = roi_align(level.to(dtype), regions.to(dtype), self.size, 1 / stride, self.sampling, aligned=True)
            features.append(self.pre_module(aligned.to(level.dtype)))
        return self.post_module(torch.stack(features).sum(0))


def _conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """A convolution named ``conv``, as in mmcv's ``ConvModule``."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return nn.Sequential(OrderedDict(conv=convolution))
