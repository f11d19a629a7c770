"""Optimisation in fine-tuning: learning rates that fall with depth, and bfloat16 on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from dynamicvis.backbone import DynamicVis
from dynamicvis.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall from the last block of the backbone to its first; weight decay where it makes sense.

    ``optim_wrapper = dict(constructor="dynamicvis.LayerDecayConstructor", paramwise_cfg=dict(layer_decay=0.9), ...)``

    With n blocks in all stages together, block i (from 0) learns at ``layer_decay ** (n - i)`` times the base rate; the
    merging convolution of a stage as its first block, the norm at the end of a stage as its last; the first convolution
    and the position embedding at ``layer_decay ** (n + 1)``; everything outside the backbone at the base rate. Norms,
    biases, ``A_log``, ``D``, the position embedding and other parameters of one dimension have no weight decay.

    Args:
        optim_wrapper_cfg: config of the wrapper, with an ``optimizer``.
        paramwise_cfg: ``layer_decay``, in (0, 1]; and ``decay_all``, True for weight decay on every parameter, which is
            the reference's way, default False.

    Raises:
        ValueError: ``layer_decay`` is missing or out of range, another key is given, or the model has no such backbone.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        settings = dict(paramwise_cfg or {})
        unknown = sorted(settings.keys() - {"layer_decay", "decay_all"})
        rate = settings.get("layer_decay")
        if unknown or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(
                "LayerDecayConstructor needs paramwise_cfg=dict(layer_decay=R) with R in (0, 1], and takes decay_all "
                f"besides, got {settings}"
            )
        super().__init__(optim_wrapper_cfg, settings)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **context: Any) -> None:
        """Add one group for each learning rate and weight decay, the base rate first."""
        scales = _scales(module, self.paramwise_cfg["layer_decay"])
        decay = self.base_wd or 0.0
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                decayed = self.paramwise_cfg.get("decay_all", False) or _decays(name, parameter)
                groups.setdefault((scales.get(name, 1.0), decayed), []).append(parameter)
        for (scale, decayed), members in sorted(groups.items(), key=lambda item: item[0], reverse=True):
            params.append({"params": members, "lr": self.base_lr * scale, "weight_decay": decay if decayed else 0.0})


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not name.endswith(("A_log", "pos_embed"))


def _scales(model: nn.Module, rate: float) -> dict[str, float]:
    """Factor on the learning rate by the name of a parameter of the backbone."""
    backbones = {name: module for name, module in model.named_modules() if isinstance(module, DynamicVis)}
    if not backbones:
        raise ValueError(
            f"LayerDecayConstructor found no DynamicVis backbone in {type(model).__name__}; use the default constructor"
        )
    scales = {}
    for prefix, backbone in backbones.items():
        blocks = sum(backbone.depths)
        # Of each stage, the number of its first block.
        first = [sum(backbone.depths[:stage]) for stage in range(len(backbone.depths))]
        for name, _ in backbone.named_parameters():
            parts = name.split(".")
            layer = -1  # position embedding
            if parts[0] == "stages":
                stage = int(parts[1])
                if parts[2] == "blocks":
                    layer = first[stage] + int(parts[3])
                elif parts[2] == "norm":
                    layer = first[stage] + backbone.depths[stage] - 1
                elif stage:
                    layer = first[stage]
            elif parts[0] != "pos_embed":
                layer = blocks  # of a subclass, behind the stages
            scales[f"{prefix}.{name}" if prefix else name] = rate ** (blocks - layer)
    return scales


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 on any device, ``type="dynamicvis.AmpOptimWrapper"``.

    MMEngine's own needs an accelerator. bfloat16 has the range of float32, so that losses are not scaled.

    Args:
        dtype: ``"bfloat16"``.
        **settings: as of MMEngine's ``OptimWrapper``.

    Raises:
        ValueError: another ``dtype``.
    """

    def __init__(self, *, dtype: str = "bfloat16", **settings: Any) -> None:
        if dtype != "bfloat16":
            raise ValueError(
                f"dynamicvis.AmpOptimWrapper works in bfloat16, got dtype={dtype!r}; for float16 on a GPU use "
                "type='AmpOptimWrapper'"
            )
        super().__init__(**settings)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The forward pass of a training step."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
