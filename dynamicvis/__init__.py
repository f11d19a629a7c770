"""DynamicVis: a remote-sensing vision foundation model that picks the regions worth looking at."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicvis.backbone import DynamicVis, NoiseDecay, create_backbone
    from dynamicvis.checkpoint import load_checkpoint
    from dynamicvis.geo.models import load_model

__version__ = version("dynamicvis")
__all__ = ["DynamicVis", "NoiseDecay", "__version__", "create_backbone", "load_checkpoint", "load_model"]

_HOMES = {
    "DynamicVis": "dynamicvis.backbone",
    "NoiseDecay": "dynamicvis.backbone",
    "create_backbone": "dynamicvis.backbone",
    "load_checkpoint": "dynamicvis.checkpoint",
    "load_model": "dynamicvis.geo.models",
}


def __getattr__(name: str) -> Any:
    """Import the public names at first use: `dynamicvis --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dynamicvis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
