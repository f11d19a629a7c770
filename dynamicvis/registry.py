"""Registries of scope ``dynamicvis`` for OpenMMLab configs.

MMEngine resolves ``type="dynamicvis.X"`` by importing ``dynamicvis.registry`` and then each registry's ``locations``,
so this module must keep its name and import nothing but MMEngine's registries.
"""

from __future__ import annotations

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry("model", parent=ROOT_MODELS, scope="dynamicvis", locations=["dynamicvis.mm"])
TRANSFORMS = Registry("transform", parent=ROOT_TRANSFORMS, scope="dynamicvis", locations=["dynamicvis.mm"])
METRICS = Registry("metric", parent=ROOT_METRICS, scope="dynamicvis", locations=["dynamicvis.mm.metrics"])
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope="dynamicvis", locations=["dynamicvis.mm"])
