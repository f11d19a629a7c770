"""The backbone as timm models: ``dynamicvis_nano``, ``dynamicvis_small``, ``dynamicvis_base``, ``dynamicvis_large``.

``import dynamicvis.timm`` registers them; then ``timm.create_model("dynamicvis_base", features_only=True)`` gives the
four maps, and without ``features_only`` an image classifier. What timm's scripts for training and validation pass
works, or is refused by a sentence that names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from dynamicvis_kernels._backend import PLAIN_TYPES
from timm.layers import is_scriptable
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn
from torch.nn import functional

from dynamicvis.backbone import DynamicVis, create_backbone
from dynamicvis.backbone.model import edges, resize_position_embedding
from dynamicvis.tensors import weight_problem

_REDUCTIONS = (4, 8, 16, 32)
_SETTINGS = frozenset(inspect.signature(DynamicVis).parameters) - {"in_channels"}


class DynamicVisClassifier(nn.Module):
    """Backbone, spatial mean of the last map, layer norm, linear head.

    Args:
        arch: name of a variant.
        in_chans: bands of the input.
        num_classes: outputs of the head; 0 for none.
        global_pool: ``"avg"``, or ``""`` to leave the last map unpooled, which goes without a head alone.
        drop_rate: probability, in [0, 1], that an input of the head is zeroed in training.
        output_stride: of the last map; 32.
        device, dtype: of the weights; None for torch's defaults.
        settings: further arguments of `dynamicvis.create_backbone`, such as ``img_size`` and ``drop_path_rate``.

    Raises:
        TypeError: an argument that there is not.
        ValueError: a value that cannot be, or the model is to be made for TorchScript.

    Source: arXiv 2503.16426, section 4.3 (scene classification).
    """

    head: nn.Module

    def __init__(
        self,
        arch: str,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        output_stride: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(settings.keys() - _SETTINGS)
        if unknown:
            known = sorted({"in_chans", "num_classes", "global_pool", "drop_rate", "output_stride"} | _SETTINGS)
            raise TypeError(
                f"dynamicvis_{arch} has no argument {unknown[0]}={settings[unknown[0]]!r}; it has {', '.join(known)}"
            )
        if output_stride != _REDUCTIONS[-1]:
            raise ValueError(f"output_stride must be {_REDUCTIONS[-1]}, got {output_stride!r}")
        if is_scriptable():
            raise ValueError(
                f"dynamicvis_{arch} cannot be made for TorchScript (scriptable, --torchscript); use torch.compile or "
                "torch.export"
            )
        if not 0 <= drop_rate <= 1:
            raise ValueError(f"drop_rate must lie in [0, 1], got {drop_rate}")
        self.backbone = create_backbone(arch, in_channels=in_chans, **settings)
        self.num_features = self.head_hidden_size = self.backbone.dims[-1]
        self.feature_info = [
            dict(num_chs=dim, reduction=reduction, module=f"backbone.stages.{s}")
            for s, (dim, reduction) in enumerate(zip(self.backbone.dims, _REDUCTIONS, strict=True))
        ]
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.drop_rate = drop_rate
        self.global_pool: str = global_pool
        self.reset_classifier(num_classes, global_pool)
        self.to(device=device, dtype=dtype)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling when given.

        Raises:
            ValueError: a pooling that there is not, a head without pooling, or a number of classes that is none.
        """
        global_pool = self.global_pool if global_pool is None else global_pool
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool must be 'avg' or '', got {global_pool!r}")
        if num_classes is not None and (not isinstance(num_classes, Integral) or num_classes < 0):
            raise ValueError(f"num_classes must be at least 0 and whole, got {num_classes!r}")
        if num_classes and not global_pool:
            raise ValueError(f"num_classes={num_classes} needs global_pool='avg': without pooling there is no head")
        self.num_classes, self.global_pool = num_classes, global_pool
        weight = self.backbone.pos_embed
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(device=weight.device, dtype=weight.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training computes the inside of each block again in the backward pass, to save memory."""
        self.backbone.gradient_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """What belongs together from input to output, for rates that decay by layer: stages if coarse, else blocks."""
        stage = r"^backbone\.stages\.(\d+)"
        blocks = [
            (rf"{stage}\.merge", (0,)),
            (rf"{stage}\.blocks\.(\d+)", None),
            (rf"{stage}\.norm", (99999,)),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^backbone\.(?:pos_embed|stages\.0\.merge)", "blocks": stage if coarse else blocks}

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resample the position embedding to the grid of another size of images; any other size is taken as well.

        Args:
            img_size: edge, or (height, width), pixels, multiples of 32.

        Raises:
            ValueError: another size.
        """
        height, width = edges(img_size)
        backbone, grid = self.backbone, (height // _REDUCTIONS[0], width // _REDUCTIONS[0])
        embedding = resize_position_embedding(backbone.pos_embed.detach(), backbone.grid, grid)
        backbone.pos_embed = nn.Parameter(embedding.clone(), requires_grad=backbone.pos_embed.requires_grad)
        backbone.grid = grid

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that must not decay besides norms and biases."""
        return {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "A_log", ".D"))}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, parameter in self.named_parameters():
            value = state_dict.get(prefix + name)
            if not isinstance(value, torch.Tensor) or type(value) not in PLAIN_TYPES or parameter.is_meta:
                continue
            if (problem := weight_problem(name, value, parameter)) is not None:
                raise ValueError(f"{prefix + name} {problem}; give a checkpoint of a run that went well")
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> last map (B, num_features, ceil(H / 32), ceil(W / 32))."""
        return self.backbone(x)[-1]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool, normalise and classify the last map."""
        if not self.global_pool:
            return x
        x = self.norm(x.mean(dim=(2, 3)))
        x = functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """The maps of the stages in ``indices``, which are normalised; timm's interface for feature extraction.

        Raises:
            ValueError: another format, or a norm is asked for beyond that of each stage.
        """
        if norm:
            raise ValueError("norm=True: the last norm is that of the pooled map; those of the stages are normalised")
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        chosen, _ = feature_take_indices(len(self.feature_info), indices)
        maps = self.backbone(x)
        intermediates = [maps[index] for index in chosen]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the head when only maps are wanted; the stages stay."""
        chosen, _ = feature_take_indices(len(self.feature_info), indices)
        if prune_head:
            self.norm = nn.Identity()  # type: ignore[assignment]
            self.reset_classifier(0, "")
        return chosen


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        DynamicVisClassifier,
        variant,
        pretrained,
        arch=variant.removeprefix("dynamicvis_"),
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        f"dynamicvis_{arch}": dict(
            input_size=(3, 512, 512),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            num_classes=1000,
            first_conv="backbone.stages.0.merge.projection",
            classifier="head",
        )
        for arch in ("nano", "small", "base", "large")
    }
)


@register_model
def dynamicvis_nano(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DynamicVis nano."""
    return _create("dynamicvis_nano", pretrained, **kwargs)


@register_model
def dynamicvis_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DynamicVis small."""
    return _create("dynamicvis_small", pretrained, **kwargs)


@register_model
def dynamicvis_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DynamicVis base."""
    return _create("dynamicvis_base", pretrained, **kwargs)


@register_model
def dynamicvis_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DynamicVis large."""
    return _create("dynamicvis_large", pretrained, **kwargs)
