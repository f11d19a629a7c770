"""Whatever is wrong with the input ends in one sentence, and nothing that looks whole is left."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import blob_scene, write_raster
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from test_cli_predict import assert_refused, run, run_process

GOOD = np.full((3, 40, 40), 90, np.uint8)


def write_nowhere(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        write_raster(path, GOOD, crs=None, transform=None)


def write_gcps(path: Path) -> None:
    corners = [(0, 0), (0, 40), (40, 0), (40, 40)]
    points = [GroundControlPoint(row, column, 10 + column / 1e4, 50 - row / 1e4) for row, column in corners]
    with warnings.catch_warnings(action="ignore"):
        write_raster(path, GOOD, crs=None, transform=None)
        with rasterio.open(path, "r+") as sink:
            sink.gcps = (points, rasterio.CRS.from_epsg(4326))


def write_rpc(path: Path) -> None:
    one = [1.0] + [0.0] * 19
    rpc = RPC(0, 1, 50, 1, [0.0, 0.0, 1.0] + [0.0] * 17, one, 20, 20, 10, 1, [0.0, 1.0] + [0.0] * 18, one, 20, 20)
    with warnings.catch_warnings(action="ignore"):
        write_raster(path, GOOD, crs=None, transform=None)
        with rasterio.open(path, "r+") as sink:
            sink.rpcs = rpc


def write_cut(path: Path) -> None:
    write_raster(path, np.random.default_rng(0).integers(0, 255, (3, 300, 300), np.uint8))
    path.write_bytes(path.read_bytes()[:150_000])


def write_many_bands(path: Path) -> None:
    write_raster(path, np.full((5, 9, 9), 90, np.uint8))
    with rasterio.open(path, "r+") as sink:
        sink.descriptions = ("blue", "green", "red", "nir", "swir")


SCENES = [
    ("nowhere", write_nowhere, r"has no place on a map.*gdal_edit\.py"),
    ("gcps", write_gcps, r"ground control points.*gdalwarp"),
    ("rpc", write_rpc, r"RPC.*gdalwarp"),
    ("grey", lambda path: write_raster(path, GOOD[:1]), r"has 1 band, .*\(red, green, blue\)"),
    ("deep", lambda path: write_raster(path, GOOD.astype(np.uint16)), r"holds uint16 values, .*gdal_translate"),
    ("complex", lambda path: write_raster(path, GOOD.astype(np.complex64)), r"complex"),
    ("empty", lambda path: write_raster(path, GOOD * 0, nodata=0), r"has no pixel with data"),
    ("nan", lambda path: write_raster(path, GOOD / np.float32(0) * np.float32("nan")), r"holds float32|no pixel"),
    ("cut", write_cut, r"truncated or damaged"),
    ("nothing", lambda path: path.write_bytes(b""), r"is no raster"),
    ("text", lambda path: path.write_text("no raster"), r"is no raster"),
    ("gone", lambda path: None, r"does not exist"),
]


@pytest.mark.parametrize("command", ["predict", "embed"])
@pytest.mark.parametrize(("name", "write", "pattern"), SCENES, ids=[name for name, *_ in SCENES])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_scene_that_cannot_be_used(
    loader: Any, tmp_path: Path, name: str, write: Any, pattern: str, command: str
) -> None:
    path = tmp_path / f"{name}.tif"
    write(path)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(run(path, "-o", tmp_path / "out", command=command), rf"{name}\.tif.*({pattern})")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_and_infinity_are_no_data(loader: Any, tmp_path: Path, shipped: Path, value: float) -> None:
    import torch
    from geo_scenes import segmentation_model

    from dynamicvis.model_card import save_model

    loader.models["unit"] = segmentation_model(name="unit", value_range=(0.0, 1.0), mean=(0.5,) * 3, std=(0.2,) * 3)
    save_model(shipped / "unit.safetensors", {"weight": torch.zeros(1)}, loader.models["unit"].card)
    bands = np.full((3, 40, 40), 0.5, np.float32)
    bands[1, :10] = value
    path = write_raster(tmp_path / "a.tif", bands)
    result = run(path, "-o", tmp_path / "out.tif", model="unit")
    assert result.exit_code == 0, result.stderr
    with rasterio.open(tmp_path / "out.tif") as out:
        np.testing.assert_array_equal(out.read_masks(1)[:, 0] > 0, np.arange(40) >= 10)
    bands[:] = value
    write_raster(path, bands)
    assert_refused(run(path, "-o", tmp_path / "two.tif", model="unit"), "has no pixel with data")


def test_bands_in_another_order(loader: Any, tmp_path: Path) -> None:
    path = tmp_path / "many.tif"
    write_many_bands(path)
    assert_refused(run(path, "-o", tmp_path / "out"), r"many\.tif .*\(red, green, blue\) in another order.*-b 3,2,1")
    assert run(path, "-o", tmp_path / "out", "-b", "3,2,1").stderr == ""
    assert_refused(run(path, "-o", tmp_path / "other", "-b", "3,2,9"), r"many\.tif has bands 1 to 5, not 9")
    assert_refused(run(path, "-o", tmp_path / "other", "-b", "3,2"), r"red, green, blue")


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_the_scene_itself_is_never_replaced(loader: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"site.{suffix}"
    write_raster(path, GOOD, driver={"tif": "GTiff", "png": "PNG"}[suffix])
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for out in (path, tmp_path):
        assert_refused(run(path, "-o", out, "--overwrite", model="fields"), rf"site\.{suffix} is the scene itself")
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_bounds_outside(loader: Any, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", GOOD)
    assert_refused(run(path, "-o", tmp_path / "out", "--bounds", "0 0 1 1"), r"a\.tif")


def test_bad_models(loader: Any, tmp_path: Path, shipped: Path) -> None:
    scene = write_raster(tmp_path / "a.tif", GOOD)
    whole = (shipped / "blobs.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("no model")
    for name, pattern in [
        ("oaks", r"no model named 'oaks'.*blobs"),
        (tmp_path / "gone.safetensors", r"gone\.safetensors does not exist"),
        (tmp_path / "cut.safetensors", r"cut\.safetensors is truncated"),
        (tmp_path / "text.safetensors", r"text\.safetensors is truncated or no safetensors"),
    ]:
        assert_refused(run(scene, "-o", tmp_path / "out", model=str(name)), pattern)
    assert not (tmp_path / "out").exists()


def test_outputs_in_the_way(loader: Any, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "site.tif", GOOD)
    (tmp_path / "site.gpkg").write_text("mine")
    assert_refused(run(scene, "-o", tmp_path), r"site\.gpkg exists already; add --overwrite")
    assert (tmp_path / "site.gpkg").read_text() == "mine"
    assert not loader.calls
    assert run(scene, "-o", tmp_path, "--overwrite").exit_code == 0
    (tmp_path / "file").write_text("mine")
    assert_refused(run(scene, "-o", tmp_path / "file"), "cannot write to folder .*file")
    (tmp_path / "x.gpkg").mkdir()
    assert run(scene, "-o", tmp_path / "x.gpkg").exit_code == 0  # A folder, whatever it is called.


def test_several_scenes_do_not_fit_into_one_file(loader: Any, tmp_path: Path) -> None:
    scenes = [write_raster(tmp_path / f"{name}.tif", GOOD) for name in "ab"]
    for options in ([], ["--dry-run"]):
        assert_refused(run(*scenes, "-o", tmp_path / "all.gpkg", *options), "one file, but there are 2 scenes")


def test_two_runs_with_different_options_on_one_output(loader: Any, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "site.tif", GOOD)
    other: list[Any] = []
    model = loader.models["fields"]

    def answer(images: Any) -> Any:
        if not other:
            other.append(None)
            other[0] = run(scene, "-o", tmp_path / "out", "--tile", 20, model="fields")
        return model(images)

    answer.card = model.card  # type: ignore[attr-defined]
    loader.models["fields"] = answer
    assert run(scene, "-o", tmp_path / "out", model="fields").exit_code == 0
    assert_refused(other[0], r"another run with .* is at work on site\.tif")


@pytest.mark.parametrize(
    ("options", "pattern", "exit_code"),
    [
        (["--tile", "0"], "--tile", 2),
        (["--tile", "32.5"], "--tile", 2),
        (["--overlap", "-1"], "--overlap", 2),
        (["--batch-size", "0"], "--batch-size", 2),
        (["--readers", "0"], "--readers", 2),
        (["--workers", "0", "--engine", "ray"], "--workers", 2),
        (["--workers", "2"], "--workers is the number of processes of --engine ray", 2),
        (["--tile", "32", "--overlap", "32"], "overlap", 1),
        (["--co", "COMPRESS=NOSUCH"], "NOSUCH.*COMPRESS", 1),
        (["--co", "NOSUCH=1"], "NOSUCH", 1),
        (["--co", "BLOCKSIZE=large"], "BLOCKSIZE=large", 1),
    ],
)
def test_bad_options(loader: Any, tmp_path: Path, options: list[str], pattern: str, exit_code: int) -> None:
    scene = write_raster(tmp_path / "site.tif", GOOD)
    result = run(scene, "-o", tmp_path / "out", *options, model="fields")
    assert_refused(result, pattern, exit_code)
    assert not list((tmp_path / "out").glob("site*"))


# The largest file that may be written: stops the unfinished work, or one of the outputs.
@pytest.mark.parametrize("size", [1_000, 20_000, 100_000])
@pytest.mark.parametrize("model", ["blobs", "fields"])
def test_a_full_disk(loader: Any, tmp_path: Path, shipped: Path, size: int, model: str) -> None:
    scene = write_raster(tmp_path / "site.tif", blob_scene(600, 600, seed=1)[0])
    out = tmp_path / "out"
    command = ("predict", scene, "-o", out, "--model", model, "-f", "gpkg", "-f", "png", "--preview")
    result = run_process(shipped, *command, file_size=size)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert not [path for path in out.rglob("*") if path.suffix in (".gpkg", ".png", ".html") and path.parent == out]
    assert run_process(shipped, *command).returncode == 0
