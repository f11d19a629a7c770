from __future__ import annotations

import json
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import torch
from geo_scenes import (
    UTM,
    FakeModel,
    blob_scene,
    detection_model,
    find_nothing,
    make_card,
    segmentation_model,
    write_raster,
)

from dynamicvis.geo import GeoError, Settings, predict
from dynamicvis.geo.products import objects, of_model
from dynamicvis.model_card import ModelFileError, save_model
from dynamicvis.tile_model import TileOutputs

OVERWRITE = Settings(overwrite=True)
NAMES = ["site.gpkg", "site.geojson", "site.png"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(150, 170, seed=1)[0])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; folders themselves as empty entries."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def outputs(folder: Path) -> dict[str, bytes]:
    """The files in a folder, but for what the engine keeps for itself."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".dynamicvis"}


def failing_model(error: BaseException, after: int = 0) -> FakeModel:
    """A model that fails at a call."""
    model = detection_model(find_nothing)

    def answer(images: Any) -> TileOutputs:
        if len(model.calls) > after:
            raise error
        return detection_model(find_nothing)(images)

    model._answer = answer
    return model


def test_writes_three_files_that_agree_with_the_scene(scene: Path, tmp_path: Path) -> None:
    truth = blob_scene(150, 170, seed=1)[1]
    result = predict(scene, tmp_path / "a" / "b", detection_model())
    assert [path.name for path in result.paths] == NAMES
    assert sorted(outputs(tmp_path / "a" / "b")) == sorted(NAMES)
    trees = sum(label == 0 for *_, label in truth)
    assert result.counts == {"tree": trees, "shrub": len(truth) - trees}
    assert result.count == len(truth)
    assert result.notes == ()
    bounds = pyogrio.read_bounds(result.paths[0])[1].T
    to_map = UTM["transform"]
    expected = {(*(to_map @ (left, bottom)), *(to_map @ (right, top))) for left, top, right, bottom, _ in truth}
    np.testing.assert_allclose(sorted(map(tuple, bounds)), sorted(expected), atol=1e-6)
    features = json.loads(result.paths[1].read_text())["features"]
    assert [feature["properties"]["id"] for feature in features] == list(range(1, len(truth) + 1))
    scores = [feature["properties"]["score"] for feature in features]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "out", ["out.gpkg", "out.geojson", "out.fgb", "out.parquet", "out.png", "out.html", "out/x.fgb"]
)
def test_one_file_holds_what_its_suffix_says(scene: Path, tmp_path: Path, out: str) -> None:
    result = predict(scene, tmp_path / out, detection_model())
    assert result.paths == (tmp_path / out,)
    assert [name for name in outputs((tmp_path / out).parent) if name not in ("site.tif", "out")] == [Path(out).name]


def test_formats_of_a_folder(scene: Path, tmp_path: Path) -> None:
    settings = Settings(formats=("FGB", ".parquet", "fgb"), preview=True)
    result = predict(scene, tmp_path / "out", detection_model(), name="mine", settings=settings)
    assert [path.name for path in result.paths] == ["mine.fgb", "mine.parquet", "mine.html"]


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("out.shp", {}, r"out\.shp has an unknown suffix; name a file with one of \.tif, \.gpkg"),
        ("out", {"formats": ("shp",)}, r"'\.shp' is no known format; choose of \.tif, \.gpkg"),
        ("out.tif", {}, "a model for detection gives objects and no raster"),
        ("out", {"formats": ("tif",)}, "a model for detection gives objects and no raster"),
        ("out.fgb", {"formats": ("fgb",)}, "leave --format out"),
        ("out", {"scores": True}, "has no scores of classes; leave --scores out"),
        ("out", {"tile": 0}, "tile must be"),
        ("out", {"tile": 32, "overlap": 32}, "less than tile"),
        ("out", {"overlap": -1}, "overlap must be"),
        ("out", {"overlap": 64}, "less than tile"),
        ("out", {"batch_size": 0}, "batch size must be at least 1"),
        ("out", {"readers": 0}, "readers must be at least 1"),
        ("out", {"bands": (1, 2)}, "2 bands chosen by -b"),
        ("out", {"bounds": (0, 0, 1, 1)}, "do not meet"),
        ("out", {"max_memory": "a lot"}, "no amount of memory"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_any_work(
    scene: Path, tmp_path: Path, out: str, settings: dict[str, Any], message: str
) -> None:
    model = detection_model()
    before = contents(tmp_path)
    with pytest.raises(GeoError, match=message):
        predict(scene, tmp_path / out, model, settings=Settings(**settings))
    assert contents(tmp_path) == before
    assert not model.calls


def test_a_small_tile_alone_shrinks_the_overlap_of_the_card(tmp_path: Path) -> None:
    image, truth = blob_scene(60, 70, seed=5, largest=8)
    path = write_raster(tmp_path / "a.tif", image)
    assert predict(path, tmp_path / "out", detection_model(), settings=Settings(tile=24)).count == len(truth)


def test_a_scene_without_a_place_or_without_data_is_an_error(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        lost = write_raster(tmp_path / "lost.tif", np.full((3, 9, 9), 50, np.uint8), crs=None, transform=None)
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 9, 9), np.uint8), nodata=0)
    for path, message in ((lost, "has no place on a map"), (empty, "NoData everywhere")):
        with pytest.raises(GeoError, match=rf"{path.name} has no .*{message}|{path.name} {message}"):
            predict(path, tmp_path / "out", detection_model())
        assert not (tmp_path / "out").exists()


def test_existing_output_is_an_error_before_any_work(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "site.geojson").write_text("mine")
    before = contents(tmp_path / "out")
    model = detection_model()
    with pytest.raises(GeoError, match=r"site\.geojson exists already; add --overwrite"):
        predict(scene, tmp_path / "out", model)
    assert contents(tmp_path / "out") == before
    assert not model.calls


def test_the_same_call_again_takes_the_finished_result(scene: Path, tmp_path: Path) -> None:
    first = predict(scene, tmp_path / "out", detection_model())
    before = contents(tmp_path / "out")
    model = detection_model()
    again = predict(scene, tmp_path / "out", model)
    assert not model.calls
    assert again.times is None
    assert (again.paths, again.counts, again.tiles) == (first.paths, first.counts, first.tiles)
    assert contents(tmp_path / "out") == before
    # Neither with another option, nor when an output was changed.
    with pytest.raises(GeoError, match="exists already"):
        predict(scene, tmp_path / "out", model, settings=Settings(tile=48))
    (tmp_path / "out" / "site.geojson").write_text("mine")
    with pytest.raises(GeoError, match="exists already"):
        predict(scene, tmp_path / "out", model)


def test_overwrite_replaces_the_files_of_an_earlier_run(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scene, out, detection_model())
    full = outputs(out)
    (out / "other.txt").write_text("mine")
    result = predict(scene, out, detection_model(find_nothing), settings=OVERWRITE)
    assert pyogrio.read_info(result.paths[0])["features"] == 0
    after = outputs(out)
    assert set(after) == {*full, "other.txt"}
    assert all(after[name] != full[name] for name in full)


def test_the_scene_itself_is_never_replaced(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "photo.tif", blob_scene(64, 64, seed=1)[0])
    before = contents(tmp_path)
    for out in (tmp_path, path):
        with pytest.raises(GeoError, match=r"photo\.tif is the scene itself"):
            predict(path, out, segmentation_model(), settings=OVERWRITE)
    assert contents(tmp_path) == before


class Stop(Exception):
    """Raised in the middle of the work."""


def stop(*_: Any, **__: Any) -> None:
    raise Stop


def interrupt(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("fail", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_in_the_first_row_of_tiles_leaves_the_folder_as_it_was(
    scene: Path, tmp_path: Path, fail: Any, error: type[BaseException], overwrite: bool
) -> None:
    out = tmp_path / "new" / "out"
    if overwrite:
        predict(scene, out, detection_model())
    before = contents(tmp_path)
    model = detection_model()
    model._answer = fail
    with pytest.raises(error):
        predict(scene, out, model, settings=Settings(overwrite=overwrite))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["without_duplicates", "write_vectors", "write_quicklook"])
@pytest.mark.parametrize(("fail", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_while_files_are_made_leaves_the_outputs_as_they_were_and_can_be_resumed(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    fail: Any,
    error: type[BaseException],
    overwrite: bool,
) -> None:
    out = tmp_path / "new" / "out"
    predict(scene, tmp_path / "expected", detection_model())
    if overwrite:
        predict(scene, out, detection_model(find_nothing))
    before = outputs(out) if overwrite else {}
    module = objects if step == "without_duplicates" else of_model
    original = getattr(module, step)

    def half_way(*args: Any, **options: Any) -> None:
        original(*args, **options)
        fail()

    settings = Settings(overwrite=overwrite)
    with monkeypatch.context() as patch:
        patch.setattr(module, step, half_way)
        with pytest.raises(error):
            predict(scene, out, detection_model(), settings=settings)
    assert outputs(out) == before
    model = detection_model()
    predict(scene, out, model, settings=settings)
    assert not model.calls
    assert outputs(out) == outputs(tmp_path / "expected")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failing", [".gpkg", ".geojson", ".png"])
def test_a_failure_while_the_files_are_moved_leaves_the_outputs_as_they_were(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, overwrite: bool
) -> None:
    out = tmp_path / "out"
    if overwrite:
        predict(scene, out, detection_model())
    before = outputs(out) if overwrite else {}
    replace = Path.replace

    def fail_into_out(self: Path, target: Path) -> Path:
        if target == out / f"site{failing}" and self.parent.name != "before":
            raise Stop
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_into_out)
        with pytest.raises(Stop):
            predict(scene, out, detection_model(find_nothing), settings=Settings(overwrite=overwrite))
    assert outputs(out) == before
    predict(scene, out, detection_model(find_nothing), settings=Settings(overwrite=overwrite))
    assert pyogrio.read_info(out / "site.gpkg")["features"] == 0


def test_a_failure_in_the_middle_keeps_finished_rows(scene: Path, tmp_path: Path) -> None:
    settings = Settings(tile=64, overlap=32, batch_size=1)
    model = failing_model(Stop(), after=12)
    with pytest.raises(Stop):
        predict(scene, tmp_path / "out", model, settings=settings)
    assert outputs(tmp_path / "out") == {}
    done = len(list((tmp_path / "out").glob(".dynamicvis/*/*/row-*.json")))
    assert done == 2
    model._answer = detection_model(find_nothing)
    model.calls.clear()
    predict(scene, tmp_path / "out", model, settings=settings)
    assert len(model.calls) == 20 - done * 5


def test_a_file_of_others_in_a_new_folder_survives_a_failure(scene: Path, tmp_path: Path) -> None:
    def detector(values: Any) -> Any:
        (tmp_path / "out" / "mine.txt").write_text("mine")
        raise Stop

    with pytest.raises(Stop):
        predict(scene, tmp_path / "out", detection_model(detector))
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("out_dir", ["file/", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to_is_an_error_before_any_work(
    scene: Path, tmp_path: Path, out_dir: str
) -> None:
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    model = detection_model()
    with pytest.raises(GeoError, match=rf"cannot write to folder .*{out_dir.rstrip('/')} .*choose another output"):
        predict(scene, f"{tmp_path}/{out_dir}" if out_dir.startswith("file") else out_dir, model)
    assert contents(tmp_path) == before
    assert not model.calls


def test_a_folder_in_place_of_an_output_is_an_error(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "site.png").mkdir(parents=True)
    with pytest.raises(GeoError, match=r"site\.png is a folder"):
        predict(scene, tmp_path / "out", detection_model(), settings=OVERWRITE)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")],
)
def test_too_little_memory_names_the_way_out(scene: Path, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(GeoError, match="--batch-size"):
        predict(scene, tmp_path / "out", failing_model(error))


def test_other_errors_of_the_model_are_not_disguised(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict(scene, tmp_path / "out", failing_model(RuntimeError("shapes differ")))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from geo_scenes import detection_model, segmentation_model
from dynamicvis.geo import GeoError, map_raster, predict
from dynamicvis.geo import Settings

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
scene, folder = Path(sys.argv[1]), Path(sys.argv[2])


def twice(images):
    return images * 2


def run(what, out):
    if what == "map":
        map_raster(twice, scene, out / "site.tif", tile=64, overlap=16)
    elif what == "objects":
        predict(scene, out, detection_model(), settings=Settings(preview=True))
    else:
        predict(scene, out, segmentation_model(), settings=Settings(scores=True, preview=True))


for what in ("map", "objects", "classes"):
    for limit in map(int, sys.argv[3:]):
        out = folder / f"{what}-{limit}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            run(what, out)
            print(f"{what}-{limit}\\twritten")
        except GeoError as error:
            print(f"{what}-{limit}\\t{error}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_is_one_sentence_and_leaves_no_output_that_looks_complete(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "site.tif", np.random.default_rng(0).integers(1, 250, (3, 200, 210), dtype=np.uint8))
    limits = [0, 100, 1000, 5000, 20_000, 60_000, 100_000, 200_000, 400_000, 600_000, 10_000_000]
    command = [sys.executable, "-c", FULL_DISK, str(path), str(tmp_path), *map(str, limits)]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    told = dict(line.split("\t") for line in run.stdout.splitlines())
    assert len(told) == 3 * len(limits)
    complete = {what: outputs(tmp_path / f"{what}-{limits[-1]}") for what in ("map", "objects", "classes")}
    for name, sentence in told.items():
        what, _, limit = name.partition("-")
        left = outputs(tmp_path / name) if (tmp_path / name).exists() else {}
        if sentence == "written":
            assert left == complete[what], name
        else:
            assert left == {}, name
            assert int(limit) < limits[-1]
    assert {told[f"{what}-{limit}"] == "written" for what in complete for limit in limits[:3]} == {False}


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the module that builds models; records its calls in ``calls``."""
    module: Any = types.ModuleType("dynamicvis.mm.inference")
    module.calls = []

    def load_tile_model(path: Path, device: str, **options: bool) -> FakeModel:
        module.calls.append((path, device, options))
        return detection_model()

    module.load_tile_model = load_tile_model
    monkeypatch.setitem(sys.modules, "dynamicvis.mm", types.ModuleType("dynamicvis.mm"))
    monkeypatch.setitem(sys.modules, "dynamicvis.mm.inference", module)
    return module


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "blobs.safetensors"
    save_model(path, {"weight": torch.zeros(1)}, make_card())
    return path


def test_a_model_file_is_loaded_on_the_device(scene: Path, tmp_path: Path, loader: Any, model_file: Path) -> None:
    truth = blob_scene(150, 170, seed=1)[1]
    assert predict(scene, tmp_path / "out", str(model_file), device="cpu").count == len(truth)
    assert [(path, device) for path, device, _ in loader.calls] == [(model_file, "cpu")]


def test_scene_and_outputs_are_checked_before_the_model_is_loaded(
    tmp_path: Path, loader: Any, model_file: Path, scene: Path
) -> None:
    (tmp_path / "site.png").touch()
    for path, out, options in [
        (tmp_path / "gone.tif", "out", {}),
        (scene, ".", {}),
        (scene, "blobs.safetensors", {}),
        (scene, "out", {"overlap": 64}),
    ]:
        with pytest.raises(GeoError):
            predict(path, tmp_path / out, model_file, settings=Settings(**options))
    assert not loader.calls


def test_a_missing_or_truncated_model_file_is_an_error(scene: Path, tmp_path: Path, model_file: Path) -> None:
    model_file.write_bytes(model_file.read_bytes()[:100])
    for name in (model_file, tmp_path / "gone.safetensors"):
        with pytest.raises(ModelFileError, match=name.name):
            predict(scene, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_the_package_is_imported_without_its_libraries() -> None:
    code = "import sys, dynamicvis.geo; assert not {'rasterio', 'pyogrio'} & set(sys.modules), 'eager import'"
    subprocess.run([sys.executable, "-c", code], check=True)
