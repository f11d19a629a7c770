"""The backbone: four stages of blocks over a pyramid of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import torch
from dynamicvis_kernels._backend import lies_in_memory
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dynamicvis.backbone.block import Residual, SelectiveBlock, TokenOrder
from dynamicvis.backbone.inference import all_as_built, check_floating, check_materialized, register_as_built
from dynamicvis.backbone.noise import NoiseDecay, noise_scale
from dynamicvis.backbone.workspace import Workspace

_KERNELS = (7, 3, 3, 3)
_STRIDES = (4, 2, 2, 2)
_TOTAL_STRIDE = 32


@dataclass(frozen=True)
class Selection:
    """The tokens that one block kept.

    Attributes:
        stage, block: position in the backbone, from 0.
        grid: (height, width) of the token grid, padding included.
        indices: (batch, kept), row-major positions in the grid, in the order they were scanned.
    """

    stage: int
    block: int
    grid: tuple[int, int]
    indices: torch.Tensor


class PatchMerge(nn.Module):
    """Strided convolution to tokens, and layer norm."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, dim, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_in")

    def forward(self, maps: torch.Tensor, workspace: Workspace | None = None) -> tuple[torch.Tensor, tuple[int, int]]:
        """(batch, channels, height, width) -> tokens (batch, h * w, dim), and (h, w)."""
        # Channels last on both sides, so that tokens and maps are views of each other.
        maps = self.projection(maps.contiguous(memory_format=torch.channels_last))
        # Of one band, whose two layouts look alike, the convolution gives channels first.
        maps = maps.contiguous(memory_format=torch.channels_last)
        tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
        return _normalize(self.norm, tokens, workspace), (maps.shape[2], maps.shape[3])


def _normalize(norm: nn.LayerNorm, tokens: torch.Tensor, workspace: Workspace | None) -> torch.Tensor:
    """The norm of the tokens, in their own memory if there is a workspace."""
    if workspace is None:
        return norm(tokens)
    from dynamicvis_kernels.normalization import layer_norm_  # loads numba

    return layer_norm_(tokens, norm.weight, norm.bias, norm.eps)


class Stage(nn.Module):
    """Patch merging, blocks, and the layer norm whose output is both the stage's feature and the next one's input."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int, blocks: Sequence[SelectiveBlock]) -> None:
        super().__init__()
        self.merge = PatchMerge(in_channels, dim, kernel, stride)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    @property
    def keep_ratio(self) -> float | None:
        """Fraction of tokens that the blocks keep; None where there is no block."""
        return cast("SelectiveBlock", self.blocks[0]).keep_ratio if len(self.blocks) else None

    @keep_ratio.setter
    def keep_ratio(self, ratio: float | None) -> None:
        for block in self.blocks:
            cast("SelectiveBlock", block).keep_ratio = ratio


for _kind in (Stage, PatchMerge):
    register_as_built(_kind, lambda module: type(module._modules["norm"]) is nn.LayerNorm)


class DynamicVis(nn.Module):
    """Selective state-space backbone over dynamically selected regions.

    Args:
        dims: channels of the four stages.
        depths: blocks of the four stages.
        keep_ratios: fraction of tokens each stage keeps, in (0, 1]; None for a stage without selection (dense).
        global_tokens: prepend one token per row of the grid, the row's mean.
        residual: ``"softmax"`` or ``"identity"``, see `SelectiveBlock`.
        token_order: ``"score"`` or ``"raster"``, see `SelectiveBlock`.
        in_channels: bands of the input.
        img_size: edge, or (height, width), in pixels, that the position embedding is made for; a multiple of 32.
            Any other input size is taken too: the embedding is interpolated to the grid at hand.
        noise: scale of the Gumbel noise on the scores in training: a float (fixed) or a `NoiseDecay`.
        gradient_checkpointing: keep only the tokens between the blocks in training, and compute the inside of each
            block again in the backward pass, with the same noise: less memory, at the price of a second forward.
        drop_path_rate: stochastic depth in training: the probability, in [0, 1), that the last block adds nothing to an
            image; those of the blocks before rise linearly from 0.

    Attributes:
        record_selection: when True, every forward leaves its selections in ``last_selection``.
        last_selection: tuple of `Selection`, one per block with a router; None unless recorded.

    Source: arXiv 2503.16426, section 3.3 and table 1.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        keep_ratios: Sequence[float | None] = (1 / 8, 1 / 4, 1 / 2, 1.0),
        global_tokens: bool = True,
        residual: Residual = "softmax",
        token_order: TokenOrder = "score",
        in_channels: int = 3,
        img_size: int | tuple[int, int] = 512,
        noise: float | NoiseDecay = 0.1,
        gradient_checkpointing: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for name, values in (("dims", dims), ("depths", depths), ("keep_ratios", keep_ratios)):
            if len(values) != len(_STRIDES):
                raise ValueError(f"{name} needs one value for each of the {len(_STRIDES)} stages, got {tuple(values)}")
        for ratio in keep_ratios:
            _check_ratio(ratio)
        for name, counts, least in (("dims", dims, 1), ("depths", depths, 0), ("in_channels", (in_channels,), 1)):
            for count in counts:
                _check_count(name, count, least)
        _check_choice("global_tokens", global_tokens, (True, False))
        _check_choice("residual", residual, ("softmax", "identity"))
        _check_choice("token_order", token_order, ("score", "raster"))
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {drop_path_rate}")
        if not 0 <= noise_scale(noise) < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {noise}")
        height, width = edges(img_size)
        self.dims = tuple(dims)
        self.depths = tuple(depths)
        self.in_channels = in_channels
        self.grid = (height // _STRIDES[0], width // _STRIDES[0])
        self.noise = noise
        self.gradient_checkpointing = gradient_checkpointing
        self.record_selection = False
        self.last_selection: tuple[Selection, ...] | None = None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dims[0]))
        inputs = (in_channels, *dims)
        rates = (drop_path_rate * index / max(sum(depths) - 1, 1) for index in range(sum(depths)))
        self.stages = nn.ModuleList(
            Stage(
                inputs[s],
                dims[s],
                _KERNELS[s],
                _STRIDES[s],
                [
                    SelectiveBlock(dims[s], keep_ratios[s], global_tokens, residual, token_order, next(rates))
                    for _ in range(depths[s])
                ],
            )
            for s in range(len(_STRIDES))
        )

    @property
    def keep_ratios(self) -> tuple[float | None, ...]:
        """Fraction of tokens that each stage keeps."""
        return tuple(stage.keep_ratio for stage in self._stages())

    def set_keep_ratios(self, keep_ratios: Sequence[float | None]) -> None:
        """Change at run time how many tokens the stages keep: the dial between cost and quality.

        Args:
            keep_ratios: one fraction in (0, 1] per stage; None exactly for the stages built without a router.

        Raises:
            ValueError: a ratio out of range, or a stage whose router is missing or left unused.
        """
        if len(keep_ratios) != len(self.stages):
            raise ValueError(f"keep_ratios needs {len(self.stages)} values, got {len(keep_ratios)}")
        for s, (ratio, present) in enumerate(zip(keep_ratios, self.keep_ratios, strict=True)):
            _check_ratio(ratio)
            if (ratio is None) != (present is None) and self.depths[s]:
                raise ValueError(f"stage {s} was built {'without' if present is None else 'with'} a router: {ratio=}")
        for stage, ratio in zip(self._stages(), keep_ratios, strict=True):
            stage.keep_ratio = ratio

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            images: (batch, in_channels, height, width), normalised; any height and width.

        Returns:
            Four maps (batch, dims[s], ceil(height / stride), ceil(width / stride)) with strides 4, 8, 16, 32.

        Raises:
            ValueError: the input has not four dimensions, another number of bands, or no pixel, or is not floating
                point.
        """
        check_floating("images", images)
        if images.ndim != 4 or images.shape[1] != self.in_channels or images.numel() == 0:
            raise ValueError(
                f"images must be (batch, {self.in_channels}, height, width) and not empty, got {tuple(images.shape)}"
            )
        if not images.is_meta:
            check_materialized(self.pos_embed)
        height, width = images.shape[2:]
        right, bottom = -width % _TOTAL_STRIDE, -height % _TOTAL_STRIDE
        maps = F.pad(images, (0, right, 0, bottom)) if right or bottom else images
        noise = noise_scale(self.noise)
        features = []
        selections: list[Selection] = []
        workspace = Workspace() if Workspace.usable(images) and self._runs_as_built(images) else None
        stride = 1
        for s, stage in enumerate(self._stages()):
            stride *= _STRIDES[s]
            tokens, grid = stage.merge(maps, workspace)
            if s == 0:
                tokens = self._add_position_embedding(tokens, grid, workspace)
            for b, block in enumerate(stage.blocks):
                if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                    tokens, indices = checkpoint(block, tokens, grid, noise, use_reentrant=False)
                else:
                    following = stage.blocks[b + 1] if b + 1 < len(stage.blocks) else None
                    tokens, indices = block(tokens, grid, noise, workspace, following)
                if self.record_selection and indices is not None:
                    selections.append(Selection(s, b, grid, indices.detach()))
            maps = _normalize(stage.norm, tokens, workspace).unflatten(1, grid).permute(0, 3, 1, 2)
            features.append(maps[:, :, : -(-height // stride), : -(-width // stride)])
        self.last_selection = tuple(selections) if self.record_selection else None
        return tuple(features)

    def _runs_as_built(self, images: torch.Tensor) -> bool:
        """Whether a forward may read the weights of its modules; what is not as built must see its module called."""
        place = self.pos_embed
        usual = place.dtype is images.dtype and place.is_cpu and lies_in_memory(place)
        return usual and all_as_built(self.stages, images)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, _ in self.named_parameters():
            if isinstance(value := state_dict.get(prefix + name), torch.Tensor):
                check_floating(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _stages(self) -> list[Stage]:
        return cast("list[Stage]", list(self.stages))

    def _add_position_embedding(
        self, tokens: torch.Tensor, grid: tuple[int, int], workspace: Workspace | None
    ) -> torch.Tensor:
        if workspace is None:
            check_floating("pos_embed", self.pos_embed)
            return tokens + resize_position_embedding(self.pos_embed, self.grid, grid)
        if grid == self.grid:
            return tokens.add_(self.pos_embed)
        from dynamicvis_kernels.resampling import add_resampled_  # loads numba

        maps = self.pos_embed.unflatten(1, self.grid)
        return add_resampled_(tokens, maps, *_resampling_matrices(self.pos_embed, self.grid, grid))


def resize_position_embedding(embedding: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Bicubic resampling of (1, height * width, dim) from one grid to another."""
    if old == new:
        return embedding
    with torch.autocast(embedding.device.type, enabled=False):
        return _resize(embedding, old, new)


def _resize(embedding: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    vertical, horizontal = _resampling_matrices(embedding, old, new)
    # Resampling is linear and separable; as two matrix products it takes a quarter of F.interpolate's time.
    wide = torch.matmul(horizontal, embedding.unflatten(1, old)[0].to(horizontal.dtype))
    return torch.tensordot(vertical, wide, dims=1).flatten(0, 1).unsqueeze(0).to(embedding.dtype)


def _resampling_matrices(
    embedding: torch.Tensor, old: tuple[int, int], new: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What bicubic interpolation does along rows and columns, each (new, old)."""
    dtype = torch.promote_types(embedding.dtype, torch.float32)

    def along(axis: int) -> torch.Tensor:
        unit = torch.eye(old[axis], device=embedding.device, dtype=dtype)
        size = (new[axis], old[axis])
        return F.interpolate(unit[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]

    vertical = along(0)
    return vertical, vertical if old[0] == old[1] and new[0] == new[1] else along(1)


def _check_ratio(ratio: float | None) -> None:
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"a keep ratio must lie in (0, 1] or be None, got {ratio}")


def edges(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width that a position embedding can be made for.

    Raises:
        ValueError: they are no multiples of the coarsest stride.
    """
    pair = tuple(img_size) if isinstance(img_size, Iterable) else (img_size, img_size)
    if len(pair) != 2 or not all(isinstance(edge, Integral) and edge > 0 and not edge % _TOTAL_STRIDE for edge in pair):
        raise ValueError(f"img_size must be a positive multiple of {_TOTAL_STRIDE}, got {img_size!r}")
    return int(pair[0]), int(pair[1])


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be at least {least} and whole, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
