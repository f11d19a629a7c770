from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

# The rasters and detectors made by code are those of the tests of dynamicvis.geo.
sys.path.insert(0, str(Path(__file__).parents[1] / "geo"))

from geo_scenes import find_blobs, make_card

from dynamicvis import model_card


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder that holds one model, ``blobs``."""
    weights = tmp_path / "weights"
    weights.mkdir()
    model_card.save_model(weights / "blobs.safetensors", {"weight": torch.zeros(1)}, make_card())
    monkeypatch.setattr(model_card, "_WEIGHTS", weights)
    return weights


@pytest.fixture
def loader(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the module that builds detectors; ``detector`` is what it gives."""
    module: Any = types.ModuleType("dynamicvis.mm.inference")
    module.calls = []
    module.detector = find_blobs
    module.load_detector = lambda path, device: module.calls.append((path, device)) or module.detector
    monkeypatch.setitem(sys.modules, "dynamicvis.mm", types.ModuleType("dynamicvis.mm"))
    monkeypatch.setitem(sys.modules, "dynamicvis.mm.inference", module)
    return module
