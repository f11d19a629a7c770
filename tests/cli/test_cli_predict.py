from __future__ import annotations

import re
import signal
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyogrio
import pytest
from click.testing import CliRunner, Result
from geo_scenes import blob_scene, find_blobs, find_nothing, write_raster
from rasterio.rio.main import main_group

from dynamicvis.cli.main import dynamicvis


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(150, 170, seed=1)[0])


def run(*arguments: object) -> Result:
    with warnings.catch_warnings(action="error"):
        return CliRunner().invoke(dynamicvis, ["predict", "--model", "blobs", *map(str, arguments)])


def assert_refused(result: Result, pattern: str, exit_code: int = 1) -> None:
    """One sentence on stderr, nothing on stdout, no traceback."""
    assert result.exit_code == exit_code
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert re.fullmatch(rf"(Usage: .*\n\n)?Error: [^\n]*{pattern}[^\n]*\n", result.stderr, re.DOTALL), result.stderr


def test_prints_the_paths_and_the_count(loader: Any, scene: Path, tmp_path: Path) -> None:
    truth = blob_scene(150, 170, seed=1)[1]
    trees = sum(label == 0 for *_, label in truth)
    result = run(scene, "-o", tmp_path / "out")
    assert result.exit_code == 0
    *paths, count = result.stdout.splitlines()
    assert paths == [str(tmp_path / "out" / f"site.{suffix}") for suffix in ("gpkg", "geojson", "png")]
    assert all(Path(path).is_file() for path in paths)
    by_class = sorted([(trees, "tree"), (len(truth) - trees, "shrub")], reverse=True)
    assert count == f"{len(truth)} objects: " + ", ".join(f"{number} {name}" for number, name in by_class)
    assert result.stderr == ""


def test_counts_of_none_and_one(loader: Any, tmp_path: Path) -> None:
    image = np.full((3, 20, 20), 20, np.uint8)
    path = write_raster(tmp_path / "a.tif", image)
    assert run(path, "-o", tmp_path / "out").stdout.splitlines()[-1] == "0 objects"
    image[0, 5:10, 5:10] = image[2, 5:10, 5:10] = 250
    write_raster(path, image)
    assert run(path, "-o", tmp_path / "out", "--overwrite").stdout.splitlines()[-1] == "1 object: 1 tree"


def test_options_reach_the_detector(loader: Any, scene: Path, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def detector(values: Any) -> Any:
        shapes.append(values.shape)
        return find_nothing(values)

    loader.detector = detector
    result = run(scene, "-o", tmp_path, "--tile", 50, "--overlap", 0, "--batch-size", 5, "--device", "cpu")
    assert result.exit_code == 0
    assert [device for _, device in loader.calls] == ["cpu"]
    assert shapes == [(5, 3, 50, 50), (5, 3, 50, 50), (2, 3, 50, 50)]


def test_a_model_file_by_its_path(loader: Any, scene: Path, tmp_path: Path, shipped: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes((shipped / "blobs.safetensors").read_bytes())
    assert run(scene, "-o", tmp_path / "out", "--model", copy).exit_code == 0
    assert loader.calls[0][0] == copy


@pytest.mark.parametrize("quiet", [False, True])
def test_notes_go_to_stderr_unless_quiet(loader: Any, tmp_path: Path, quiet: bool) -> None:
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "a.tif", np.zeros((3, 9, 9), np.uint8), crs=None, transform=None, nodata=0)
    result = run(path, "-o", tmp_path / "out", *(["-q"] if quiet else []))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "0 objects"
    if quiet:
        assert result.stderr == ""
    else:
        first, second = result.stderr.splitlines()
        assert re.fullmatch(r"Note: .*a\.tif.*pixel coordinates.*", first)
        assert re.fullmatch(r"Note: .*a\.tif.*NoData everywhere.*", second)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_sees_a_bar_on_stderr_unless_quiet(
    loader: Any, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = run(scene, "-o", tmp_path / "out", *(["-q"] if quiet else []))
    assert result.exit_code == 0
    assert ("20/20" in result.stderr) is not quiet
    assert "20/20" not in result.stdout


def test_bad_scenes(loader: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no raster")
    write_raster(tmp_path / "grey.tif", np.ones((1, 9, 9), np.uint8))
    write_raster(tmp_path / "deep.tif", np.ones((3, 9, 9), np.uint16))
    for name, pattern in [
        ("notes.txt", r"notes\.txt is no raster"),
        ("gone.tif", r"gone\.tif does not exist"),
        ("grey.tif", r"grey\.tif has 1 band, .*\(red, green, blue\)"),
        ("deep.tif", r"deep\.tif holds uint16 values, .*gdal_translate"),
    ]:
        assert_refused(run(tmp_path / name, "-o", tmp_path / "out"), pattern)
    assert not (tmp_path / "out").exists()
    assert not loader.calls


def test_bad_models(loader: Any, scene: Path, tmp_path: Path, shipped: Path) -> None:
    whole = (shipped / "blobs.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no model")
    for name, pattern in [
        ("oaks", r"no model named 'oaks'.*blobs"),
        (tmp_path / "gone.safetensors", r"gone\.safetensors does not exist"),
        (tmp_path / "cut.safetensors", r"cut\.safetensors is truncated"),
        (tmp_path / "text.safetensors", r"text\.safetensors is truncated or no safetensors"),
    ]:
        assert_refused(run(scene, "-o", tmp_path / "out", "--model", name), pattern)
    assert not (tmp_path / "out").exists()


def test_existing_output_needs_overwrite(loader: Any, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "site.gpkg").write_text("mine")
    assert_refused(run(scene, "-o", tmp_path), r"site\.gpkg exists already; add --overwrite")
    assert (tmp_path / "site.gpkg").read_text() == "mine"
    assert not loader.calls
    assert run(scene, "-o", tmp_path, "--overwrite").exit_code == 0
    assert pyogrio.read_info(tmp_path / "site.gpkg")["features"] > 0


def test_unwritable_folder(loader: Any, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(run(scene, "-o", tmp_path / "file"), "cannot write to folder .*file .it is a file.")
    assert not loader.calls


def test_a_full_disk(loader: Any, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "site.png")

    monkeypatch.setattr("dynamicvis.geo.pipeline.write_quicklook", full)
    assert_refused(run(scene, "-o", tmp_path / "out"), "No space left on device.*site.png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "pattern", "exit_code"),
    [
        (["--tile", "0"], "--tile", 2),
        (["--tile", "32.5"], "--tile", 2),
        (["--overlap", "-1"], "--overlap", 2),
        (["--batch-size", "0"], "--batch-size", 2),
        (["--tile", "32", "--overlap", "32"], "less than tile", 1),
        (["--device", "abacus"], "device 'abacus' is not available", 1),
    ],
)
def test_bad_options(
    loader: Any, scene: Path, tmp_path: Path, options: list[str], pattern: str, exit_code: int
) -> None:
    assert_refused(run(scene, "-o", tmp_path / "out", *options), pattern, exit_code)
    assert not (tmp_path / "out").exists()


def test_interrupted_half_way_leaves_nothing(loader: Any, scene: Path, tmp_path: Path) -> None:
    batches: list[int] = []

    def detector(values: Any) -> Any:
        batches.append(len(values))
        if len(batches) == 2:
            signal.raise_signal(signal.SIGINT)
        return find_blobs(values)

    loader.detector = detector
    before = sorted(tmp_path.rglob("*"))
    result = run(scene, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.strip() == "Aborted!"
    assert len(batches) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_as_a_plugin_of_rio(loader: Any, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(dynamicvis, click.Group)
    monkeypatch.setitem(main_group.commands, dynamicvis.name, dynamicvis)
    result = CliRunner().invoke(
        main_group, ["dynamicvis", "predict", str(scene), "-o", str(tmp_path / "out"), "--model", "blobs"]
    )
    assert result.exit_code == 0
    assert (tmp_path / "out" / "site.gpkg").is_file()
