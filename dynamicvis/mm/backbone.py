"""The backbone as a building block of OpenMMLab models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

import dynamicvis.backbone as core
from dynamicvis.registry import MODELS


@MODELS.register_module()
class DynamicVis(core.DynamicVis, BaseModule):
    """DynamicVis backbone for mmdet, mmseg and mmpretrain, ``type="dynamicvis.DynamicVis"`` in a config.

    Parameter names are those of :class:`dynamicvis.backbone.DynamicVis`. Input (B, C, H, W), output one map per entry
    of ``out_indices``, at strides 4, 8, 16, 32.

    Args:
        arch: name of a variant (``"nano"``, ``"small"``, ``"base"``, ``"large"``), or None with ``dims``, ``depths``
            and ``keep_ratios`` given.
        out_indices: stages whose maps are returned, in ascending order, each 0 to 3.
        frozen_stages: number of leading stages, 0 to 4, that are not trained: no gradients, and no router noise in
            training mode. The position embedding stays trainable.
        noise: scale of the Gumbel noise on router scores in training: a number, or ``dict(start=0.1, end=1e-4)`` for a
            linear decay, which :class:`dynamicvis.mm.hooks.RouterNoiseHook` advances.
        init_cfg: None, or ``dict(type="Pretrained", checkpoint=PATH, prefix="backbone.")``; the file may be of any
            kind that :func:`dynamicvis.checkpoint.load_checkpoint` reads.
        **overrides: further settings of :func:`dynamicvis.backbone.create_backbone`, such as ``img_size``,
            ``in_channels``, ``keep_ratios``.

    Raises:
        ValueError: an argument is out of range, or ``init_cfg`` is of another kind.
    """

    def __init__(
        self,
        arch: str | None = None,
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = 0,
        noise: float | Mapping[str, float] = 0.1,
        init_cfg: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        if list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= {0, 1, 2, 3}:
            raise ValueError(f"out_indices must be ascending stage numbers from 0 to 3, got {tuple(out_indices)}")
        if not 0 <= frozen_stages <= 4:
            raise ValueError(f"frozen_stages must be from 0 to 4, got {frozen_stages}")
        if init_cfg is not None and (
            init_cfg.get("type") != "Pretrained" or init_cfg.get("prefix") not in (None, "backbone.")
        ):
            raise ValueError(
                "init_cfg must be None or dict(type='Pretrained', checkpoint=PATH, prefix='backbone.'), "
                f"got {dict(init_cfg)}"
            )
        schedule = core.NoiseDecay(**noise) if isinstance(noise, Mapping) else noise
        super().__init__(**(core.variant_settings(arch) | overrides), noise=schedule)
        self.init_cfg = None if init_cfg is None else dict(init_cfg)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        for stage in self._frozen():
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices`` for images (B, C, H, W)."""
        maps = super().forward(images)
        return tuple(maps[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> DynamicVis:
        """Switch between training and evaluation; frozen stages stay in evaluation, and so without noise."""
        super().train(mode)
        for stage in self._frozen():
            stage.eval()
        return self

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``; without one the weights stay as constructed."""
        if self.init_cfg is not None and not self.is_init:
            from dynamicvis.checkpoint import load_checkpoint

            load_checkpoint(self, self.init_cfg["checkpoint"])
        self._is_init = True

    def _frozen(self) -> nn.ModuleList:
        return self.stages[: self.frozen_stages]
