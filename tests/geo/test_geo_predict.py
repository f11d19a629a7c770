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
    embedding_model,
    find_blobs,
    find_nothing,
    make_card,
    segmentation_model,
    write_raster,
)

from dynamicvis.geo import GeoError, predict
from dynamicvis.geo import tasks as tasks_module
from dynamicvis.geo.pipeline import Settings
from dynamicvis.model_card import ModelFileError, save_model

OVERWRITE = Settings(overwrite=True)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(150, 170, seed=1)[0])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; folders themselves as empty entries."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def test_writes_three_files_that_agree_with_the_scene(scene: Path, tmp_path: Path) -> None:
    truth = blob_scene(150, 170, seed=1)[1]
    result = predict(scene, tmp_path / "a" / "b", MODEL)
    assert [path.name for path in result.paths] == ["site.gpkg", "site.geojson", "site.png"]
    assert sorted((tmp_path / "a" / "b").iterdir()) == sorted(result.paths)
    trees = sum(label == 0 for *_, label in truth)
    assert result.counts == {"tree": trees, "shrub": len(truth) - trees}
    assert result.count == len(truth)
    assert result.notes == ()
    bounds = pyogrio.read_bounds(result.geopackage)[1].T
    to_map = UTM["transform"]
    expected = {(*(to_map @ (left, bottom)), *(to_map @ (right, top))) for left, top, right, bottom, _ in truth}
    np.testing.assert_allclose(sorted(map(tuple, bounds)), sorted(expected), atol=1e-6)
    features = json.loads(result.geojson.read_text())["features"]
    assert [feature["properties"]["id"] for feature in features] == list(range(1, len(truth) + 1))
    scores = [feature["properties"]["score"] for feature in features]
    assert scores == sorted(scores, reverse=True)


def test_notes_tell_of_missing_crs_and_missing_data(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "a.tif", np.zeros((3, 9, 9), np.uint8), crs=None, transform=None, nodata=0)
    result = predict(path, tmp_path / "out", MODEL)
    assert result.count == 0
    first, second = result.notes
    assert "pixel coordinates" in first
    assert "NoData everywhere" in second
    assert all(str(path) in note for note in result.notes)
    assert all(path.stat().st_size for path in result.paths)


def test_existing_output_is_an_error_before_any_work(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "site.geojson").write_text("mine")
    before = contents(tmp_path / "out")
    calls: list[int] = []
    model = DetectionModel(make_card(), lambda values: calls.append(1) or find_nothing(values))
    with pytest.raises(GeoError, match=r"site\.geojson exists already; add --overwrite"):
        predict(scene, tmp_path / "out", model)
    assert contents(tmp_path / "out") == before
    assert not calls


def test_overwrite_replaces_the_files_of_an_earlier_run(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(scene, out, MODEL)
    full = contents(out)
    (out / "other.txt").write_text("mine")
    result = predict(scene, out, DetectionModel(make_card(), find_nothing), overwrite=True)
    assert pyogrio.read_info(result.geopackage)["features"] == 0
    after = contents(out)
    assert set(after) == {*full, "other.txt"}
    assert all(after[name] != full[name] for name in full)


def test_the_scene_itself_is_never_replaced(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(
            tmp_path / "photo.png", blob_scene(64, 64, seed=1)[0], driver="PNG", crs=None, transform=None
        )
    before = contents(tmp_path)
    with pytest.raises(GeoError, match=r"photo\.png is the scene itself"):
        predict(path, tmp_path, MODEL, overwrite=True)
    assert contents(tmp_path) == before


class Stop(Exception):
    """Raised in the middle of the work."""


def stop(*_: Any, **__: Any) -> None:
    raise Stop


def interrupt(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["detect_objects", "write_geopackage", "write_geojson", "write_quicklook"])
@pytest.mark.parametrize(("fail", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_at_any_step_leaves_the_folder_as_it_was(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    fail: Any,
    error: type[BaseException],
    overwrite: bool,
) -> None:
    out = tmp_path / "new" / "out"
    if overwrite:
        predict(scene, out, MODEL)
    before = contents(tmp_path)
    original = getattr(pipeline_module, step)

    def half_way(*args: Any, **options: Any) -> None:
        original(*args, **options)
        fail()

    monkeypatch.setattr(pipeline_module, step, half_way)
    with pytest.raises(error):
        predict(scene, out, MODEL, overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("failing", [".gpkg", ".geojson", ".png"])
def test_a_failure_while_the_files_are_moved_leaves_the_folder_as_it_was(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, overwrite: bool
) -> None:
    out = tmp_path / "out"
    if overwrite:
        predict(scene, out, MODEL)
    before = contents(tmp_path)
    replace = Path.replace

    def fail_into_out(self: Path, target: Path) -> Path:
        if target == out / f"site{failing}" and self.parent.name != "before":
            raise Stop
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_into_out)
    with pytest.raises(Stop):
        predict(scene, out, DetectionModel(make_card(), find_nothing), overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_file_of_others_in_a_new_folder_survives_a_failure(scene: Path, tmp_path: Path) -> None:
    def detector(values: Any) -> Any:
        (tmp_path / "out" / "mine.txt").write_text("mine")
        raise Stop

    with pytest.raises(Stop):
        predict(scene, tmp_path / "out", DetectionModel(make_card(), detector))
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("out_dir", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to_is_an_error_before_any_work(
    scene: Path, tmp_path: Path, out_dir: str
) -> None:
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    model = DetectionModel(make_card(), stop)
    with pytest.raises(GeoError, match=rf"cannot write to folder .*{out_dir} .*--out-dir"):
        predict(scene, tmp_path / out_dir, model)
    assert contents(tmp_path) == before


def test_a_folder_in_place_of_an_output_is_an_error(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "site.png").mkdir(parents=True)
    with pytest.raises(GeoError, match=r"site\.png is a folder"):
        predict(scene, tmp_path / "out", MODEL, overwrite=True)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError("CUDA")],
)
def test_too_little_memory_names_the_way_out(scene: Path, tmp_path: Path, error: Exception) -> None:
    def detector(values: Any) -> Any:
        raise error

    with pytest.raises(GeoError, match="--batch-size"):
        predict(scene, tmp_path / "out", DetectionModel(make_card(), detector))


def test_other_errors_of_the_model_are_not_disguised(scene: Path, tmp_path: Path) -> None:
    def detector(values: Any) -> Any:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        predict(scene, tmp_path / "out", DetectionModel(make_card(), detector))


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the module that builds detectors; records its calls in ``calls``."""
    module: Any = types.ModuleType("dynamicvis.mm.inference")
    module.calls = []
    module.load_detector = lambda path, device: module.calls.append((path, device)) or find_blobs
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
    assert loader.calls == [(model_file, "cpu")]
    model = load_model(model_file)
    assert model.card == make_card()
    assert loader.calls[1] == (model_file, "cuda" if torch.cuda.is_available() else "cpu")


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
            predict(path, tmp_path / out, model_file, **options)
    assert not loader.calls


def test_missing_openmmlab_names_the_extra(
    scene: Path, tmp_path: Path, loader: Any, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_detector(path: Path, device: str) -> None:
        import mmengine  # noqa: F401

    loader.load_detector = load_detector
    monkeypatch.setitem(sys.modules, "mmengine", None)
    with pytest.raises(GeoError, match=r'mmengine is not installed: `pip install "dynamicvis\[mm\]"`'):
        predict(scene, tmp_path / "out", model_file)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_an_error(loader: Any, model_file: Path) -> None:
    for device in ("abacus", "cuda:99"):
        with pytest.raises(GeoError, match=rf"device '{device}' is not available"):
            load_model(model_file, device)
    assert not loader.calls


def test_a_model_for_another_task_is_an_error(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "roads.safetensors"
    save_model(path, {"weight": torch.zeros(1)}, make_card(task="segmentation"))
    with pytest.raises(GeoError, match=r"roads\.safetensors is a model for segmentation"):
        predict(scene, tmp_path / "out", path)


def test_a_missing_or_truncated_model_file_is_an_error(scene: Path, tmp_path: Path, model_file: Path) -> None:
    model_file.write_bytes(model_file.read_bytes()[:100])
    for name in (model_file, tmp_path / "gone.safetensors"):
        with pytest.raises(ModelFileError, match=name.name):
            predict(scene, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_the_package_is_imported_without_its_libraries() -> None:
    code = "import sys, dynamicvis.geo; assert not {'rasterio', 'pyogrio'} & set(sys.modules), 'eager import'"
    subprocess.run([sys.executable, "-c", code], check=True)
