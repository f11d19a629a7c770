from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from geo_scenes import make_card

from dynamicvis import model_card
from dynamicvis.cli.main import dynamicvis


def test_models_shows_the_cards(shipped: Path) -> None:
    result = CliRunner().invoke(dynamicvis, ["models"])
    assert result.exit_code == 0
    for text in ("blobs: Finds bright", "tree, shrub", "red, green, blue", "0.1 m", "AP50 0.5", "CC0-1.0", "made by"):
        assert text in result.stdout
    assert len(result.stdout.splitlines()) > 5


def test_models_as_json_is_the_whole_card(shipped: Path) -> None:
    (model,) = json.loads(CliRunner().invoke(dynamicvis, ["models", "--json"]).stdout)
    assert Path(model.pop("path")) == shipped / "blobs.safetensors"
    assert model_card.ModelCard(**model) == make_card()


def test_no_models(shipped: Path) -> None:
    (shipped / "blobs.safetensors").unlink()
    assert CliRunner().invoke(dynamicvis, ["models"]).stdout.startswith("No models")
    assert json.loads(CliRunner().invoke(dynamicvis, ["models", "--json"]).stdout) == []


def test_a_damaged_model_is_an_error(shipped: Path) -> None:
    (shipped / "blobs.safetensors").write_bytes(b"damaged")
    result = CliRunner().invoke(dynamicvis, ["models"])
    assert result.exit_code == 1
    assert "blobs.safetensors is truncated" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"dynamicvis": "12.3"}[name])
    assert CliRunner().invoke(dynamicvis, ["--version"]).stdout == "dynamicvis, version 12.3\n"


def test_entry_points_name_the_group() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for points in (project["scripts"], project["entry-points"]["rasterio.rio_plugins"]):
        module, _, name = points["dynamicvis"].partition(":")
        assert getattr(import_module(module), name) is dynamicvis
    assert dynamicvis.name == "dynamicvis"


def test_help_needs_no_heavy_import() -> None:
    code = """
import sys
from click.testing import CliRunner
from dynamicvis.cli.main import dynamicvis
for arguments in (["--help"], ["predict", "--help"], ["models", "--help"]):
    assert CliRunner().invoke(dynamicvis, arguments).exit_code == 0
assert not {"torch", "rasterio", "pyogrio", "mmdet"} & set(sys.modules), "eager import"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("arguments", [("embed", "a.tif"), ("change", "a.tif", "b.tif")])
def test_a_command_without_a_default_model_asks_for_one(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(dynamicvis, [*arguments, "-o", "out"])
    assert result.exit_code == 2
    assert "Missing option '--model'" in result.stderr
