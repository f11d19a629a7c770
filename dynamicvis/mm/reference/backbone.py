"""The reference's backbone by its name and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from dynamicvis.backbone import NoiseDecay
from dynamicvis.checkpoint import fit_position_embedding, load_checkpoint, rename_reference_key
from dynamicvis.mm.backbone import DynamicVis
from dynamicvis.mm.reference.arguments import UnsupportedSetting, require

_NAME = "DynamicVisBackbone"
_ARCHS = {"b": "base", "base": "base", "l": "large", "large": "large"}
_POOL_NORM = "post_meanpool_norm"


@MODELS.register_module()
class DynamicVisBackbone(DynamicVis):
    """The reference's backbone, ``type="mmpretrain.DynamicVisBackbone"``.

    Parameters are named as in `dynamicvis.mm.DynamicVis`; a state dict in the reference's names is renamed while it is
    loaded, and its position embedding resampled, from a square grid.

    Args:
        arch: ``"b"``, ``"base"``, ``"l"``, ``"large"``, or ``dict(c_embed_dims=..., num_layers=...)``.
        frozen_stages: number of leading stages without training, -1 or 0 for none.
        path_type: ``"forward_reverse_mean"``.
        sampling_scale: noise on the router, ``dict(type="fixed" or "decay", val=...)``, or None for no noise. The decay
            follows the epochs of MMEngine's runner; no hook is needed.
        global_token_cfg: ``dict(pos="head", num=-1)``, or ``dict(pos="none")`` for none.
        img_size: edge in pixels that the position embedding is made for; any other size is taken too.
        spatial_token_keep_ratios: of each stage the n of "one token in n is kept"; 0 for a stage without a router.
        is_softmax_on_x: whether unselected tokens, too, are added to themselves times their weight.
        out_indices: stages whose output is returned.
        out_type: ``"featmap"`` for maps, ``"avg_featmap"`` for their means over the pixels, normalised, (B, C).
        in_channels: bands.
        init_cfg: as of `dynamicvis.mm.DynamicVis`.
        channel_token_keep_ratios: ignored, as the reference does with ``branch_format="spatial"``.
        mamba2, branch_format, patch_sizes, strides, norm_cfg, layer_cfgs, norm_topk_prob, loading_loss, with_pe: only
            the values of the reference's released configs.

    Raises:
        UnsupportedSetting: a setting without an equivalent.
    """

    def __init__(
        self,
        mamba2: bool = False,
        arch: str | Mapping[str, Sequence[int]] = "b",
        frozen_stages: int = -1,
        branch_format: str = "spatial",
        path_type: str = "forward_reverse_mean",
        sampling_scale: Mapping[str, Any] | None = {"type": "fixed", "val": 0.1},
        global_token_cfg: Mapping[str, Any] | None = {"pos": "head", "num": -1},
        img_size: int | tuple[int, int] = 512,
        patch_sizes: Sequence[int] = (7, 3, 3, 3),
        strides: Sequence[int] = (4, 2, 2, 2),
        spatial_token_keep_ratios: Sequence[int] = (8, 4, 2, 1),
        channel_token_keep_ratios: Sequence[int] = (1, 2, 2, 4),
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-6},
        layer_cfgs: Mapping[str, Any] = {},
        norm_topk_prob: bool = False,
        is_softmax_on_x: bool = True,
        loading_loss: bool = False,
        with_pe: bool = True,
        out_type: str = "featmap",
        init_cfg: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        for name, value in others.items():
            raise UnsupportedSetting(_NAME, name, value, "remove it")
        require(_NAME, "mamba2", mamba2, False)
        require(_NAME, "branch_format", branch_format, "spatial")
        require(_NAME, "path_type", path_type, "forward_reverse_mean")
        require(_NAME, "patch_sizes", patch_sizes, (7, 3, 3, 3))
        require(_NAME, "strides", strides, (4, 2, 2, 2))
        require(_NAME, "norm_cfg", norm_cfg, {"type": "LN", "eps": 1e-6})
        require(_NAME, "layer_cfgs", layer_cfgs, {})
        require(_NAME, "norm_topk_prob", norm_topk_prob, False)
        require(_NAME, "loading_loss", loading_loss, False)
        require(_NAME, "with_pe", with_pe, True)
        require(_NAME, "out_type", out_type, "featmap", "avg_featmap")
        super().__init__(
            **_arch(arch),
            out_indices=[index % 4 for index in out_indices],
            frozen_stages=max(frozen_stages, 0),
            noise=_noise(sampling_scale),
            global_tokens=_global_tokens(global_token_cfg),
            residual="softmax" if is_softmax_on_x else "identity",
            keep_ratios=[None if ratio == 0 else 1 / ratio for ratio in spatial_token_keep_ratios],
            in_channels=in_channels,
            img_size=img_size,
            init_cfg=init_cfg,
        )
        self.out_type = out_type
        if out_type == "avg_featmap":
            self.post_meanpool_norm = nn.LayerNorm(self.dims[-1], eps=1e-6)
        self.register_load_state_dict_pre_hook(_take_reference_names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> maps of the stages in ``out_indices``, or their normalised means (B, C)."""
        if self.training and isinstance(self.noise, NoiseDecay):
            self.noise.progress = _progress(self.noise.progress)
        maps = super().forward(images)
        if self.out_type == "featmap":
            return maps
        return tuple(self.post_meanpool_norm(stage.mean(dim=(2, 3))) for stage in maps)

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, which need not have the norm of ``avg_featmap``."""
        if self.init_cfg is not None and not self.is_init:
            load_checkpoint(self, self.init_cfg["checkpoint"], optional=(_POOL_NORM,))
        self._is_init = True


def _progress(default: float) -> float:
    """Share of the run that is over, by epochs, or by iterations where there are no epochs."""
    run = MessageHub.get_current_instance().runtime_info
    done, total = ("epoch", "max_epochs") if run.get("max_epochs", 0) > 1 else ("iter", "max_iters")
    return run[done] / run[total] if done in run and run.get(total) else default


def _arch(arch: str | Mapping[str, Sequence[int]]) -> dict[str, Any]:
    if isinstance(arch, str):
        require(_NAME, "arch", arch, *_ARCHS)
        return {"arch": _ARCHS[arch]}
    if set(arch) != {"c_embed_dims", "num_layers"}:
        raise UnsupportedSetting(_NAME, "arch", dict(arch), "give c_embed_dims and num_layers")
    return {"dims": arch["c_embed_dims"], "depths": arch["num_layers"]}


def _noise(sampling_scale: Mapping[str, Any] | None) -> float | dict[str, float]:
    if sampling_scale is None:
        return 0.0
    require(_NAME, "sampling_scale's type", sampling_scale.get("type"), "fixed", "decay")
    scale = float(sampling_scale["val"])
    return scale if sampling_scale["type"] == "fixed" else {"start": scale, "end": min(1e-4, scale)}


def _global_tokens(settings: Mapping[str, Any] | None) -> bool:
    if settings is None or settings.get("pos") == "none":
        return False
    require(_NAME, "global_token_cfg's pos", settings.get("pos"), "head", "none")
    require(_NAME, "global_token_cfg's num", settings.get("num", -1), -1)
    return True


def _take_reference_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Rename what is in the reference's layout below ``prefix``, in place."""
    assert isinstance(module, DynamicVisBackbone)
    for key in [key for key in state_dict if key.startswith(f"{prefix}layers.")]:
        state_dict[prefix + rename_reference_key(key.removeprefix(prefix))] = state_dict.pop(key)
    embedding = state_dict.get(f"{prefix}pos_embed")
    if isinstance(embedding, Tensor):
        with torch.no_grad():
            state_dict[f"{prefix}pos_embed"] = fit_position_embedding(embedding, module.grid)
