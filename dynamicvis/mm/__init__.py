"""DynamicVis for OpenMMLab: ``custom_imports = dict(imports=["dynamicvis.mm"])`` in a config is all that is needed.

Works with any of mmdet, mmseg and mmpretrain present. Importing it also provides ``mmcv.ops`` where MMCV was installed
without compiled operators, and keeps mmpretrain importable beside transformers 5.
"""

from __future__ import annotations

from dynamicvis.mm import mmcv_ops, patches

mmcv_ops.install()
patches.disable_broken_multimodal()
patches.find_shipped_configs()
patches.read_checkpoints_as_data()

from dynamicvis.mm.backbone import DynamicVis  # noqa: E402 - mmcv.ops must be in place before anything imports it
from dynamicvis.mm.hooks import RouterBalanceHook, RouterNoiseHook  # noqa: E402
from dynamicvis.mm.transforms import BackgroundJitter, RadiometricJitter, RandomRotate90, RandomScale  # noqa: E402

__all__ = [
    "BackgroundJitter",
    "DynamicVis",
    "RadiometricJitter",
    "RandomRotate90",
    "RandomScale",
    "RouterBalanceHook",
    "RouterNoiseHook",
]
