"""The backbone as timm models: ``dynamicvis_nano``, ``dynamicvis_small``, ``dynamicvis_base``, ``dynamicvis_large``.

``import dynamicvis.timm`` registers them; then ``timm.create_model("dynamicvis_base", features_only=True)`` gives the
four maps, and without ``features_only`` an image classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from dynamicvis.backbone import create_backbone

_REDUCTIONS = (4, 8, 16, 32)


class DynamicVisClassifier(nn.Module):
    """Backbone, spatial mean of the last map, layer norm, linear head.

    Args:
        arch: name of a variant.
        in_chans: bands of the input.
        num_classes: outputs of the head; 0 for none.
        global_pool: ``"avg"``, or ``""`` to leave the last map unpooled.
        settings: further arguments of `dynamicvis.create_backbone`.

    Source: arXiv 2503.16426, section 4.3 (scene classification).
    """

    def __init__(
        self, arch: str, in_chans: int = 3, num_classes: int = 1000, global_pool: str = "avg", **settings: Any
    ) -> None:
        super().__init__()
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool must be 'avg' or '', got {global_pool!r}")
        self.backbone = create_backbone(arch, in_channels=in_chans, **settings)
        self.num_features = self.head_hidden_size = self.backbone.dims[-1]
        self.feature_info = [
            dict(num_chs=dim, reduction=reduction, module=f"backbone.stages.{s}")
            for s, (dim, reduction) in enumerate(zip(self.backbone.dims, _REDUCTIONS, strict=True))
        ]
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.global_pool = global_pool
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head, and the pooling when given."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that must not decay besides norms and biases."""
        return {name for name, _ in self.named_parameters() if name.endswith(("pos_embed", "A_log", ".D"))}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> last map (B, num_features, ceil(H / 32), ceil(W / 32))."""
        return self.backbone(x)[-1]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool, normalise and classify the last map."""
        if not self.global_pool:
            return x
        x = self.norm(x.mean(dim=(2, 3)))
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
        """The maps of the stages in ``indices``; timm's interface for feature extraction."""
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
