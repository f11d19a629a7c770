"""The scope ``opencd``: open-cd's registries, or registries in their place that know mmseg's names besides."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

import mmseg.registry
from mmengine.registry import Registry

_NAMES = ("DATASETS", "HOOKS", "METRICS", "MODELS", "TRANSFORMS", "VISUALIZERS")


def _registries() -> dict[str, Registry]:
    if "opencd.registry" not in sys.modules and importlib.util.find_spec("opencd") is None:
        # MMEngine imports the registry module of a scope each time that it resolves a name in it.
        for name in ("opencd", "opencd.registry"):
            module = types.ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            sys.modules[name] = module
        for name in _NAMES:
            parent = getattr(mmseg.registry, name)
            setattr(sys.modules["opencd.registry"], name, Registry(parent.name, parent=parent, scope="opencd"))
    module = importlib.import_module("opencd.registry")
    return {name: getattr(module, name) for name in _NAMES}


OPENCD = _registries()
