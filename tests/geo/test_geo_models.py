from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from geo_scenes import make_card
from safetensors.torch import save_file

from dynamicvis.geo import GeoError
from dynamicvis.geo.models import load_model
from dynamicvis.model_card import TASKS, ModelCard, ModelFileError, read_card, save_model, shipped_models


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "blobs.safetensors"
    save_model(path, {"weight": torch.zeros(1)}, make_card())
    return path


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the module that builds models; records its calls in ``calls``."""
    module: Any = types.ModuleType("dynamicvis.mm.inference")
    module.calls = []
    module.load_tile_model = lambda *arguments, **options: module.calls.append((arguments, options)) or "model"
    monkeypatch.setitem(sys.modules, "dynamicvis.mm", types.ModuleType("dynamicvis.mm"))
    monkeypatch.setitem(sys.modules, "dynamicvis.mm.inference", module)
    return module


def test_a_model_is_loaded_with_its_options(loader: Any, model_file: Path) -> None:
    assert load_model(model_file) == "model"
    assert load_model(str(model_file), "cpu", selection=True) == "model"
    load_model(model_file, embedding=True)
    assert loader.calls == [
        ((model_file, "cpu"), {"selection": selection, "embedding": embedding})
        for selection, embedding in ((False, False), (True, False), (False, True))
    ]


def test_missing_openmmlab_names_the_extra(loader: Any, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_tile_model(*_: Any, **__: Any) -> None:
        import mmseg.models  # noqa: F401

    loader.load_tile_model = load_tile_model
    monkeypatch.setitem(sys.modules, "mmseg", None)
    with pytest.raises(GeoError, match=r"'blobs' needs OpenMMLab, and mmseg is not installed: `pip install \"dynamicv"):
        load_model(model_file)


def test_another_missing_module_is_no_matter_of_openmmlab(loader: Any, model_file: Path) -> None:
    def load_tile_model(*_: Any, **__: Any) -> None:
        import dynamicvis.absent  # noqa: F401

    loader.load_tile_model = load_tile_model
    with pytest.raises(ModuleNotFoundError, match=r"dynamicvis\.absent"):
        load_model(model_file)


def test_a_device_that_is_not_there_is_an_error(loader: Any, model_file: Path) -> None:
    for device in ("abacus", "cuda:99"):
        with pytest.raises(GeoError, match=rf"device '{device}' is not available"):
            load_model(model_file, device)
    assert not loader.calls


def test_a_missing_or_truncated_file_is_an_error(tmp_path: Path, model_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model named 'hedges' and no such file; shipped models: trees"):
        load_model("hedges")
    with pytest.raises(ModelFileError, match=r"gone\.safetensors does not exist"):
        load_model(tmp_path / "gone.safetensors")
    model_file.write_bytes(model_file.read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"blobs\.safetensors is truncated"):
        load_model(model_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "tracking"}, r"task must be one of detection, .*embedding, not 'tracking'"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"std": (1.0, 1.0)}, "bands, mean and std differ"),
        ({"classes": (), "colors": ()}, "a model for detection needs classes"),
        ({"background": 2}, "background must be the index of one of 2 classes, not 2"),
        ({"overlap": 64}, "overlap must be at least 0 and less than tile"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"interpolation": "lanczos"}, "interpolation one of nearest, bilinear, bicubic"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=rf"model card 'blobs': .*{message}"):
        make_card(**changes)


def test_a_card_of_any_task_survives_the_file(tmp_path: Path) -> None:
    for task in TASKS:
        changes: dict[str, Any] = {"task": task, "background": 1, "scale": 2.0, "clip": True}
        if task == "embedding":
            changes |= {"classes": (), "colors": (), "background": None}
        card = make_card(**changes)
        save_model(tmp_path / "x.safetensors", {"weight": torch.zeros(1)}, card)
        assert read_card(tmp_path / "x.safetensors") == card


def test_cards_of_earlier_versions_are_read(tmp_path: Path) -> None:
    values = dataclasses.asdict(make_card())
    for name in ("background", "scale", "interpolation", "clip"):
        del values[name]
    save_file({"weight": torch.zeros(1)}, tmp_path / "old.safetensors", {"dynamicvis_card": json.dumps(values)})
    assert read_card(tmp_path / "old.safetensors") == make_card()
    trees = read_card(shipped_models()["trees"])
    assert isinstance(trees, ModelCard)
    assert (trees.task, trees.background, trees.scale) == ("detection", None, 1.0)
