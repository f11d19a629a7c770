"""Many scenes in the actors of a real Ray cluster on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from geo_processes import FragileModel, Log, PlaceModel, write_places
from geo_scenes import write_raster

from dynamicvis.geo import GeoError, Request, Settings, predict
from dynamicvis.geo.many_on_ray import run_scenes_on_ray
from dynamicvis.geo.scene.finding import find_scenes

SETTINGS = Settings(formats=("tif", "geojson"), batch_size=1, creation_options={"NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # The actors import what the models of the tests are made of.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def request_of(out: Path, model: Any, **settings: Any) -> Request:
    return Request("predict", str(out), model, settings=Settings(**(vars(SETTINGS) | settings)))


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_is_replaced_and_the_bytes_are_those_of_one_process(tmp_path: Path) -> None:
    scenes = [write_places(tmp_path / f"{name}.tif", 150, 100) for name in ("a", "b")]
    for scene in scenes:
        predict(scene, tmp_path / "one", PlaceModel(), settings=SETTINGS)
    log = tmp_path / "log"
    request = request_of(tmp_path / "many", FragileModel(log, 5))
    outcomes = list(run_scenes_on_ray(find_scenes([str(scene) for scene in scenes]), request, workers=2))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert {outcome.scene.name for outcome in outcomes} == {"a", "b"}
    assert {outcome.result.tiles for outcome in outcomes if outcome.result} == {6}
    assert written(tmp_path / "many") == written(tmp_path / "one")
    assert log.with_suffix(".killed").exists()
    # Each tile once, but those that the killed actor had in hand or in a band that was not finished.
    assert 12 < Log(log).counts().total() <= 18


@pytest.mark.usefixtures("cluster")
def test_what_one_actor_has_written_another_does_not_overwrite(tmp_path: Path) -> None:
    scene = write_places(tmp_path / "a.tif", 150, 100)
    out, log = tmp_path / "out", tmp_path / "log"
    predict(scene, out, PlaceModel(), settings=SETTINGS)
    request = request_of(out, PlaceModel(log), overwrite=True)
    outcomes = list(run_scenes_on_ray(find_scenes([str(scene)]), request, workers=2))
    assert [outcome.error for outcome in outcomes] == [None]
    assert Log(log).counts().total() == 6


@pytest.mark.usefixtures("cluster")
def test_a_failing_scene_does_not_stop_the_rest(tmp_path: Path) -> None:
    good = write_places(tmp_path / "good.tif", 70, 70)
    empty = write_raster(tmp_path / "empty.tif", np.zeros((1, 70, 70), np.int32), nodata=0)
    request = request_of(tmp_path / "out", PlaceModel())
    missing = tmp_path / "missing.tif"
    outcomes = list(run_scenes_on_ray(find_scenes(map(str, (empty, missing, good))), request, workers=2))
    errors = {outcome.scene.name: outcome.error for outcome in outcomes}
    assert errors["good"] is None
    assert "NoData everywhere" in (errors["empty"] or "")
    assert "does not exist" in (errors["missing"] or "")
    assert set(written(tmp_path / "out")) == {"good.tif", "good.geojson"}


@pytest.mark.usefixtures("cluster")
def test_what_the_cluster_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    scenes = find_scenes([str(write_places(tmp_path / "a.tif", 70, 70))])
    request = request_of(tmp_path / "out", PlaceModel())
    with pytest.raises(GeoError, match="3 workers are asked for, but the Ray cluster has 2 processors"):
        list(run_scenes_on_ray(scenes, request, workers=3))
    with pytest.raises(GeoError, match="the Ray cluster has no GPU"):
        list(run_scenes_on_ray(scenes, Request(**(vars(request) | {"device": "cuda"}))))
    with pytest.raises(GeoError, match="there is no scene"):
        list(run_scenes_on_ray([], request))


class BrokenModel(PlaceModel):
    def __call__(self, images: Any) -> Any:
        raise ZeroDivisionError("a fault of the program")


class DeadlyModel(FragileModel):
    def __call__(self, images: Any) -> Any:
        self._log = Log(self._log.path.with_name(f"{len(list(self._log.path.parent.glob('*.killed')))}.log"))
        return super().__call__(images)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda log: BrokenModel(), r"a Ray actor failed at .*a\.tif: .*a fault of the program"),
        (lambda log: DeadlyModel(log, 1), r"5 Ray actors were lost in a row, the last one at work on .*a\.tif"),
    ],
)
def test_a_model_that_fails_everywhere_ends_in_one_sentence(tmp_path: Path, model: Any, message: str) -> None:
    scenes = find_scenes([str(write_places(tmp_path / "a.tif", 70, 70))])
    request = request_of(tmp_path / "out", model(tmp_path / "log"))
    with pytest.raises(GeoError, match=message):
        list(run_scenes_on_ray(scenes, request, workers=2))


def test_without_ray_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    scenes = find_scenes([str(write_places(tmp_path / "a.tif", 70, 70))])
    with pytest.raises(GeoError, match=r"pip install dynamicvis\[ray\]"):
        list(run_scenes_on_ray(scenes, request_of(tmp_path / "out", PlaceModel())))
