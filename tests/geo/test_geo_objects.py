from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from geo_scenes import FakeModel, blob_scene, detection_model, find_blobs, find_nothing, make_card, mask_model
from numpy.typing import NDArray

from dynamicvis.geo import Extent, tile_grid
from dynamicvis.geo.runs.engine import Job, run_rows, stored_objects
from dynamicvis.geo.runs.journal import Plan, Workspace
from dynamicvis.geo.scene.source import read_padded
from dynamicvis.geo.stitching.merge import Candidates, without_duplicates

_numbers = count()


@dataclass
class Picture:
    """An image as a scene; 0 in all bands is no data when ``holes``."""

    bands: NDArray[np.uint8]
    holes: bool = False
    path: str = "picture"

    @property
    def height(self) -> int:
        return self.bands.shape[1]

    @property
    def width(self) -> int:
        return self.bands.shape[2]

    def read(self, window: Extent) -> Any:
        return read_padded(self._part, window, (self.height, self.width), make_card().mean)

    def _part(self, part: Extent) -> Any:
        values = self.bands[:, part.top : part.bottom, part.left : part.right].astype(np.float32)
        return values, values.any(axis=0) if self.holes else np.ones(values.shape[1:], bool)


def run(
    tmp_path: Path,
    image: NDArray[np.uint8],
    model: Any = find_blobs,
    *,
    tile: int = 64,
    overlap: int = 32,
    batch_size: int = 4,
    holes: bool = False,
) -> Candidates:
    """Objects of an image, found tile by tile, stored and merged."""
    model = model if isinstance(model, FakeModel) else detection_model(model)
    picture = Picture(image, holes)
    grid = tile_grid(picture.height, picture.width, tile, overlap)
    place = Workspace(tmp_path, f"run{next(_numbers)}", ["none"])
    with place.open(Plan({}, {}), resume=False, overwrite=False) as work:
        threshold = model.card.score_threshold
        run_rows(Job(picture, model, grid, score_threshold=threshold, batch_size=batch_size), work)
        return without_duplicates(list(stored_objects(grid, work)), grid.stride)


def as_set(found: Candidates) -> set[tuple[int, ...]]:
    boxes = found.boxes.astype(int)
    assert (boxes == found.boxes).all()
    assert found.polygons is None or len(found.polygons) == len(boxes)
    return {(*box, label) for box, label in zip(boxes.tolist(), found.labels.tolist(), strict=True)}


@pytest.mark.parametrize(("height", "width"), [(150, 170), (64, 64), (65, 63), (20, 30), (97, 200)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (48, 20), (40, 30)])
def test_tiles_find_what_one_look_at_the_whole_scene_finds(
    tmp_path: Path, height: int, width: int, tile: int, overlap: int
) -> None:
    image, truth = blob_scene(height, width, seed=height)
    found = run(tmp_path, image, find_blobs, tile=tile, overlap=overlap)
    assert as_set(found) == truth
    assert len(found) == len(truth) > 0
    assert (np.diff(found.scores) <= 0).all()


def test_the_result_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    image = blob_scene(150, 170, seed=1)[0]
    sizes: list[int] = []

    def detector(values: Any) -> Any:
        sizes.append(len(values))
        return find_blobs(values)

    single = run(tmp_path, image, detector, batch_size=1)
    assert set(sizes) == {1}
    tiles = len(sizes)
    assert tiles == 4 * 5
    for batch_size in (2, 7, 100):
        sizes.clear()
        found = run(tmp_path, image, detector, batch_size=batch_size)
        assert max(sizes) == min(batch_size, 5)
        assert sum(sizes) == tiles
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(found, name), getattr(single, name))


@pytest.mark.parametrize("left", range(32, 50))
def test_a_part_of_an_object_at_a_tile_edge_never_beats_the_whole_one(tmp_path: Path, left: int) -> None:
    image = np.full((3, 64, 96), 20, np.uint8)
    image[0, 20:40, left : left + 28] = 250
    image[2, 20:40, left : left + 28] = 200

    def smaller_first(values: Any) -> Any:
        answers = find_blobs(values)
        return [
            (boxes, 1 - np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 1000, labels) for boxes, _, labels in answers
        ]

    found = run(tmp_path, image, smaller_first, tile=64, overlap=32)
    assert found.boxes.tolist() == [[left, 20, left + 28, 40]]


@pytest.mark.parametrize(
    ("width", "overlap", "left", "right"), [(104, 24, 30, 100), (104, 24, 4, 74), (96, 32, 13, 83), (100, 32, 10, 90)]
)
def test_an_object_that_no_tile_sees_whole_is_found_once(
    tmp_path: Path, width: int, overlap: int, left: int, right: int
) -> None:
    image = np.full((3, 64, width), 20, np.uint8)
    image[0, 20:50, left:right] = 250
    image[2, 20:50, left:right] = 200
    assert len(run(tmp_path, image, find_blobs, tile=64, overlap=overlap)) == 1


def shifting(shift: int) -> Any:
    """Moves every box away from the middle of the tile, as a model does that sees less context near an edge."""

    def detector(values: Any) -> Any:
        middle = values.shape[3] / 2
        answers = []
        for boxes, scores, labels in find_blobs(values):
            sign = np.sign((boxes[:, 0] + boxes[:, 2]) / 2 - middle)
            answers.append((boxes + sign[:, None] * np.array([shift, 0, shift, 0]), scores, labels))
        return answers

    return detector


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
@pytest.mark.parametrize("left", range(36, 50))
def test_an_object_on_the_border_of_two_cores_is_found_once(tmp_path: Path, left: int, shift: int) -> None:
    image = np.full((3, 64, 96), 20, np.uint8)
    image[0, 20:32, left : left + 14] = 250
    image[2, 20:32, left : left + 14] = 200
    assert len(run(tmp_path, image, shifting(shift), tile=64, overlap=32)) == 1


def test_objects_of_different_classes_or_of_one_tile_do_not_suppress_each_other(tmp_path: Path) -> None:
    image = np.full((3, 64, 96), 20, np.uint8)
    image[0, 20:40, 38:58] = 250
    image[2, 20:40, 38:58] = 200

    def by_tile(values: Any) -> Any:
        left_tile = values[0, 0, 30, 45] > 200 and values[0, 0, 30, 20] < 200
        ((boxes, scores, _),) = find_blobs(values)
        return [(boxes + (1 if left_tile else -1) * np.array([3, 0, 3, 0]), scores, [0 if left_tile else 1])]

    def twins(values: Any) -> Any:
        ((boxes, scores, labels),) = find_blobs(values)
        near = boxes + np.array([1, 0, 1, 0])
        return [(np.concatenate([boxes, near]), np.tile(scores, 2), np.tile(labels, 2))]

    assert sorted(run(tmp_path, image, by_tile, batch_size=1).labels) == [0, 1]
    assert len(run(tmp_path, image, twins, batch_size=1)) == 2


def test_tiles_without_data_never_reach_the_detector(tmp_path: Path) -> None:
    image = np.zeros((3, 64, 256), np.uint8)
    image[:, :, :40] = 50
    calls: list[Any] = []

    def detector(values: Any) -> Any:
        calls.append(values.copy())
        return find_nothing(values)

    found = run(tmp_path, image, detector, tile=64, overlap=0, batch_size=8, holes=True)
    assert len(found) == 0
    (values,) = calls
    assert values.shape == (1, 3, 64, 64)
    assert (values[0, :, :, :40] == 50).all()
    assert (values[0, :, :, 40:] == np.array([100, 110, 120])[:, None, None]).all()


def always(boxes: list[list[float]], scores: list[float] | None = None) -> Any:
    def detector(values: Any) -> Any:
        return [(np.array(boxes), scores or [0.9] * len(boxes), [0] * len(boxes)) for _ in values]

    return detector


def test_objects_on_nodata_are_dropped_but_not_for_a_stray_pixel(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 50, np.uint8)
    image[:, :, 32:] = 0
    image[:, 10, 10] = 0
    boxes = [[5, 5, 16, 16], [20, 20, 38, 30], [28, 40, 42, 50], [40, 2, 50, 12]]
    found = run(tmp_path, image, always(boxes), holes=True)
    assert sorted(found.boxes.tolist()) == boxes[:2]


def test_boxes_are_clipped_to_the_raster_and_empty_ones_dropped(tmp_path: Path) -> None:
    image = np.full((3, 30, 40), 50, np.uint8)
    boxes = [[-5, -5, 10, 10], [30, 20, 60, 60], [45, 5, 60, 20], [3, 3, 3, 9], [np.nan, 1, 5, 5]]
    assert sorted(run(tmp_path, image, always(boxes)).boxes.tolist()) == [[0, 0, 10, 10], [30, 20, 40, 30]]


def test_scores_below_the_threshold_of_the_card_are_dropped(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 50, np.uint8)
    found = run(tmp_path, image, always([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0.29, 0.3, 0.8]))
    assert found.scores.tolist() == [0.8, 0.3]
    assert found.boxes[:, 0].tolist() == [40, 20]


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (48, 20), (64, 16), (40, 30)])
def test_masks_come_out_once_and_whole(tmp_path: Path, tile: int, overlap: int) -> None:
    image, truth = blob_scene(120, 130, seed=tile)
    # A bite out of each, so that masks are not their boxes.
    for left, top, right, bottom, _ in truth:
        image[:, top : top + (bottom - top) // 2, left : left + (right - left) // 2] = 20
    found = run(tmp_path, image, mask_model(), tile=tile, overlap=overlap)
    drawn = np.zeros(image.shape[1:], int)
    y, x = np.mgrid[: image.shape[1], : image.shape[2]] + 0.5
    for polygon, label in zip(found.polygons, found.labels, strict=True):
        drawn += (label + 1) * shapely.contains_xy(polygon, x, y)
    bright = (image[0] > 200) * 1 + (image[1] > 200) * 2
    np.testing.assert_array_equal(drawn, bright)
    assert len(found) == len(truth)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (48, 20), (100, 40)])
def test_boxes_by_tiles_are_as_near_to_the_truth_as_those_of_one_look(tmp_path: Path, tile: int, overlap: int) -> None:
    # Boxes of one object that two tiles shift apart by less than a third of its edge count as one.
    image, truth = blob_scene(200, 210, seed=9)
    for left, top, right, bottom, _ in truth:
        if right - left <= 6:
            image[:, top:bottom, left:right] = 20
    truth = {box for box in truth if box[2] - box[0] > 6}
    found = run(tmp_path, image, shifting(1), tile=tile, overlap=overlap)
    wanted = np.array(sorted(truth), float)
    assert len(found) == len(wanted)
    boxes = np.column_stack([found.boxes, found.labels])
    distance = np.abs(boxes[:, None] - wanted[None]).max(axis=2)
    assert sorted(distance.argmin(axis=1).tolist()) == list(range(len(wanted)))
    assert distance.min(axis=1).max() <= 1
