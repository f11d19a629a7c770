"""What a model answers is kept as it was, whatever the model does to its buffers afterwards, and copied only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from geo_scenes import make_card, write_raster
from numpy.typing import NDArray

from dynamicvis.geo import Settings, map_raster, predict
from dynamicvis.geo.runs import engine
from dynamicvis.geo.runs.ownership import taken
from dynamicvis.tile_model import TileObjects, TileOutputs

OPTIONS: dict[str, Any] = {"tile": 16, "overlap": 6, "batch_size": 1, "creation_options": {"OVERVIEWS": "NONE"}}


def buffered() -> Callable[[Any], Any]:
    buffers: dict[Any, Any] = {}

    def fn(images: Any) -> Any:
        buffer = buffers.setdefault(images.shape, np.empty_like(images))
        np.multiply(images, 2, out=buffer)
        return buffer

    return fn


def buffered_view() -> Callable[[Any], Any]:
    buffer = np.empty((4, 8, 16, 16), np.float32)

    def fn(images: Any) -> Any:
        buffer[: len(images), 3:5] = images * 2
        return buffer[: len(images), 3:5]

    return fn


def two_buffers() -> Callable[[Any], Any]:
    pair = [buffered(), buffered()]

    def fn(images: Any) -> Any:
        pair.reverse()
        return pair[0](images)

    return fn


def first_input_kept() -> Callable[[Any], Any]:
    first: list[Any] = []

    def fn(images: Any) -> Any:
        doubled = images * 2
        first.append(images)
        first[0][:] = doubled
        return first[0]

    return fn


def buffered_tensor() -> Callable[[Any], Any]:
    buffer = torch.empty(4, 2, 16, 16)

    def fn(images: Any) -> Any:
        return buffer[: len(images)].copy_(torch.from_numpy(images) * 2)

    return fn


def raw_memory() -> Callable[[Any], Any]:
    memory = bytearray(2 * 16 * 16 * 4)

    def fn(images: Any) -> Any:
        memory[:] = (images * 2).tobytes()
        return np.frombuffer(memory, np.float32).reshape(images.shape)

    return fn


def in_place(images: Any) -> Any:
    images *= 2
    return images


def view_of_input(images: Any) -> Any:
    images *= 2
    return images[:, ::-1][:, ::-1]


def read_only(images: Any) -> Any:
    values = images * 2
    values.flags.writeable = False
    return values


def negative_strides(images: Any) -> Any:
    return np.ascontiguousarray((images * 2)[..., ::-1, ::-1])[..., ::-1, ::-1]


def channels_last(images: Any) -> Any:
    return np.ascontiguousarray((images * 2).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def doubles(images: Any) -> Any:
    return images.astype(np.float64) * 2


FUNCTIONS = [buffered(), buffered_view(), two_buffers(), first_input_kept(), buffered_tensor(), raw_memory()]
FUNCTIONS += [in_place, view_of_input, read_only, negative_strides, channels_last, doubles]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).integers(1, 120, (2, 40, 90)).astype(np.uint8)
    return write_raster(tmp_path_factory.mktemp("scene") / "in.tif", values)


@pytest.mark.parametrize("fn", FUNCTIONS, ids=range(len(FUNCTIONS)))
def test_any_way_to_return_the_same_values_gives_the_same_bytes(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fn: Any
) -> None:
    map_raster(lambda images: images * 2, scene, tmp_path / "good.tif", **OPTIONS)
    # The writer comes to the tiles of a row when the model has gone on to the last one.
    add, waiting = engine._RowInTheMaking.add, []

    def late(band: Any, item: Any) -> None:
        waiting.append(item)
        if item.tile.column == len(band._job.grid.columns.starts) - 1:
            for earlier in waiting:
                add(band, earlier)
            waiting.clear()

    monkeypatch.setattr(engine._RowInTheMaking, "add", late)
    map_raster(fn, scene, tmp_path / "out.tif", **OPTIONS)
    assert (tmp_path / "out.tif").read_bytes() == (tmp_path / "good.tif").read_bytes()


def address(values: NDArray[Any]) -> int:
    return values.__array_interface__["data"][0]


def copied(make: Callable[[], TileOutputs]) -> bool:
    """Whether the map of an answer, which nobody here holds, is copied."""
    answer = [make()]
    before = address(answer[0].maps["scores"])
    return address(taken(answer).maps["scores"]) != before


def outputs(values: Any) -> TileOutputs:
    return TileOutputs(maps={"scores": values})


def test_what_was_made_for_the_answer_is_not_copied() -> None:
    assert not copied(lambda: outputs(np.ones((1, 2, 3, 3))))
    assert not copied(lambda: outputs(np.ones((1, 2, 3, 3))[:, 1:]))
    held = np.ones((1, 2, 3, 3))
    assert copied(lambda: outputs(held))
    assert copied(lambda: outputs(held[:, 1:]))
    answer = outputs(np.ones((1, 2, 3, 3)))
    assert copied(lambda: answer)
    assert copied(lambda: outputs(torch.ones(1, 2, 3, 3).numpy()))
    assert copied(lambda: outputs(np.frombuffer(bytearray(72)).reshape(1, 1, 3, 3)))


def test_a_function_that_returns_its_input_costs_no_copy(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[tuple[int, int]] = []

    def watched(answer: list[TileOutputs]) -> TileOutputs:
        before = address(answer[0].maps["values"])
        kept = taken(answer)
        addresses.append((before, address(kept.maps["values"])))
        return kept

    monkeypatch.setattr(engine, "taken", watched)
    map_raster(lambda images: images, scene, tmp_path / "out.tif", **OPTIONS)
    map_raster(lambda images: images + 1, scene, tmp_path / "more.tif", **OPTIONS)
    assert addresses
    assert all(before == after for before, after in addresses)


def test_objects_and_vectors_of_a_model_are_kept_too() -> None:
    boxes, scores, labels = np.ones((2, 4)), np.ones(2), np.zeros(2, np.int64)
    masks, vectors = np.ones((2, 5, 5), bool), np.ones((1, 3), np.float32)
    kept = taken([TileOutputs(objects=[TileObjects(boxes, scores, labels, masks)], vectors=vectors)])
    for values in (boxes, scores, labels, masks, vectors):
        values[:] = 9
    assert kept.objects is not None
    (found,) = kept.objects
    assert found.masks is not None
    assert kept.vectors is not None
    assert (found.boxes.max(), found.scores.max(), found.labels.max(), kept.vectors.max()) == (1, 1, 0, 1)
    assert found.masks.all()


class Buffered:
    """A model that answers with one buffer."""

    def __init__(self) -> None:
        self.card = make_card(
            task="segmentation", bands=("a", "b"), mean=(0.0,) * 2, std=(1.0,) * 2, tile=32, overlap=0
        )
        self._outputs = TileOutputs(maps={"scores": np.empty((1, 2, 32, 32), np.float32)})

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        scores = self._outputs.maps["scores"]
        scores[:, 1] = images[:, 0] > 60
        scores[:, 0] = 1 - scores[:, 1]
        return self._outputs


class Fresh(Buffered):
    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        return TileOutputs(maps={"scores": super().__call__(images).maps["scores"].copy()})


def test_a_model_that_answers_with_one_buffer(scene: Path, tmp_path: Path) -> None:
    settings = Settings(formats=("tif",), batch_size=1)
    written = []
    for model in (Buffered(), Fresh()):
        (path,) = predict(scene, tmp_path / type(model).__name__, model, settings=settings).paths
        written.append(path.read_bytes())
    assert written[0] == written[1]
