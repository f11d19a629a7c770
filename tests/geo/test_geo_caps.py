"""Tiles that gave as many objects as the model gives at most are counted, whoever computed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from geo_scenes import FakeModel, blob_scene, detection_model, find_blobs, mask_model, write_raster
from numpy.typing import NDArray

from dynamicvis.geo import PredictResult, Settings, predict
from dynamicvis.tile_model import TileOutputs

MOST = 4


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "site.tif", blob_scene(150, 170, seed=1)[0])


def capped(model: FakeModel, most: int | None) -> FakeModel:
    """The model with a cap: its best objects of each tile."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        found = model._answer(images).objects
        assert found is not None
        best = [np.argsort(-one.scores)[:most] for one in found]
        objects = [
            replace(
                one,
                boxes=one.boxes[index],
                scores=one.scores[index],
                labels=one.labels[index],
                masks=None if one.masks is None else one.masks[index],
                most=most,
            )
            for one, index in zip(found, best, strict=True)
        ]
        return TileOutputs(objects=objects)

    return FakeModel(model.card, answer)


def told(result: PredictResult) -> list[str]:
    return [note for note in result.notes if "the most that model" in note]


@pytest.mark.parametrize("make", [detection_model, mask_model])
def test_full_tiles_are_counted_in_a_note(scene: Path, tmp_path: Path, make: type[FakeModel]) -> None:
    result = predict(scene, tmp_path / "out", capped(make(), MOST))
    (note,) = told(result)
    count = int(note.split()[0])
    assert 0 < count <= result.tiles
    assert f"gave {MOST} objects" in note
    assert "--tile 32" in note
    # The finished run says the same when it is asked for again.
    again = predict(scene, tmp_path / "out", capped(make(), MOST))
    assert (again.times, told(again)) == (None, [note])


def test_the_count_is_that_of_an_interrupted_run_too(scene: Path, tmp_path: Path) -> None:
    whole = told(predict(scene, tmp_path / "whole", capped(detection_model(), MOST)))
    model = capped(detection_model(), MOST)
    answer = model._answer

    def interrupted(images: NDArray[np.float32]) -> TileOutputs:
        if sum(model.calls) > 8:
            raise KeyboardInterrupt
        return answer(images)

    model._answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        predict(scene, tmp_path / "out", model, settings=Settings(batch_size=1))
    model._answer = answer
    result = predict(scene, tmp_path / "out", model, settings=Settings(batch_size=1))
    assert result.times is not None
    assert 0 < result.times.tiles < result.tiles
    assert told(result) == whole


def test_a_cap_that_cuts_nothing_that_is_reported_is_no_matter(scene: Path, tmp_path: Path) -> None:
    fullest = max(
        len(boxes) for boxes, _, _ in find_blobs(np.stack([blob_scene(150, 170, seed=1)[0]]).astype(np.float32))
    )
    assert told(predict(scene, tmp_path / "a", capped(detection_model(), fullest + 1))) == []
    assert told(predict(scene, tmp_path / "b", capped(detection_model(), None))) == []
    # Full of objects below the threshold, which are not reported anyway.
    assert told(predict(scene, tmp_path / "c", capped(detection_model(score_threshold=0.999), MOST))) == []
