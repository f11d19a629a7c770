from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# The rasters and models made by code are those of the tests of dynamicvis.geo.
sys.path.insert(0, str(Path(__file__).parents[1] / "geo"))

from cli_models import Loader
from geo_scenes import make_card

from dynamicvis import model_card
from dynamicvis.geo import models


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
    """Models of all tasks in the weights folder, named after what they find; they are functions, not networks."""
    loader = Loader(shipped)
    monkeypatch.setattr(models, "load_model", loader)
    return loader
