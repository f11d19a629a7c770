from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geo_scenes import blob_scene, find_blobs, find_nothing, make_card, write_raster

from dynamicvis.geo import Detections, GeoError, Scene, detect_objects


def run(path: Path, detector: Any, **options: Any) -> Detections:
    card = make_card()
    with Scene(path, card) as scene:
        return detect_objects(detector, scene, card, **options)


def as_set(found: Detections) -> set[tuple[int, ...]]:
    boxes = found.boxes.astype(int)
    assert (boxes == found.boxes).all()
    return {(*box, label) for box, label in zip(boxes.tolist(), found.labels.tolist(), strict=True)}


@pytest.mark.parametrize(("height", "width"), [(150, 170), (64, 64), (65, 63), (20, 30), (97, 200)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (48, 20), (40, 30)])
def test_tiles_find_what_one_look_at_the_whole_scene_finds(
    tmp_path: Path, height: int, width: int, tile: int, overlap: int
) -> None:
    image, truth = blob_scene(height, width, seed=height)
    found = run(write_raster(tmp_path / "a.tif", image), find_blobs, tile=tile, overlap=overlap)
    assert as_set(found) == truth
    assert len(found) == len(truth) > 0
    assert (np.diff(found.scores) <= 0).all()


def test_the_result_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", blob_scene(150, 170, seed=1)[0])
    sizes: list[int] = []

    def detector(values: Any) -> Any:
        sizes.append(len(values))
        return find_blobs(values)

    single = run(path, detector, batch_size=1)
    assert set(sizes) == {1}
    for batch_size in (2, 7, 100):
        sizes.clear()
        found = run(path, detector, batch_size=batch_size)
        assert max(sizes) == min(batch_size, single.tiles)
        assert sum(sizes) == found.tiles == single.tiles
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

    found = run(write_raster(tmp_path / "a.tif", image), smaller_first, tile=64, overlap=32)
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
    assert len(run(write_raster(tmp_path / "a.tif", image), find_blobs, tile=64, overlap=overlap)) == 1


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
    assert len(run(write_raster(tmp_path / "a.tif", image), shifting(shift), tile=64, overlap=32)) == 1


def test_objects_of_different_classes_or_of_one_tile_do_not_suppress_each_other(tmp_path: Path) -> None:
    image = np.full((3, 64, 96), 20, np.uint8)
    image[0, 20:40, 38:58] = 250
    image[2, 20:40, 38:58] = 200
    path = write_raster(tmp_path / "a.tif", image)

    def by_tile(values: Any) -> Any:
        left_tile = values[0, 0, 30, 45] > 200 and values[0, 0, 30, 20] < 200
        ((boxes, scores, _),) = find_blobs(values)
        return [(boxes + (1 if left_tile else -1) * np.array([3, 0, 3, 0]), scores, [0 if left_tile else 1])]

    def twins(values: Any) -> Any:
        ((boxes, scores, labels),) = find_blobs(values)
        near = boxes + np.array([1, 0, 1, 0])
        return [(np.concatenate([boxes, near]), np.tile(scores, 2), np.tile(labels, 2))]

    assert sorted(run(path, by_tile, batch_size=1).labels) == [0, 1]
    assert len(run(path, twins, batch_size=1)) == 2


def test_tiles_without_data_never_reach_the_detector(tmp_path: Path) -> None:
    image = np.zeros((3, 64, 256), np.uint8)
    image[:, :, :40] = 50
    calls: list[Any] = []

    def detector(values: Any) -> Any:
        calls.append(values.copy())
        return find_nothing(values)

    found = run(write_raster(tmp_path / "a.tif", image, nodata=0), detector, tile=64, overlap=0, batch_size=8)
    assert found.tiles == 1
    (values,) = calls
    assert values.shape == (1, 3, 64, 64)
    assert (values[0, :, :, :40] == 50).all()
    assert (values[0, :, :, 40:] == np.array([100, 110, 120])[:, None, None]).all()


def test_nothing_but_nodata_gives_an_empty_result(tmp_path: Path) -> None:
    found = run(write_raster(tmp_path / "a.tif", np.zeros((3, 70, 70), np.uint8), nodata=0), find_blobs)
    assert found.tiles == 0
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.labels) == 0


def always(boxes: list[list[float]], scores: list[float] | None = None) -> Any:
    def detector(values: Any) -> Any:
        return [(np.array(boxes), scores or [0.9] * len(boxes), [0] * len(boxes)) for _ in values]

    return detector


def test_objects_on_nodata_are_dropped_but_not_for_a_stray_pixel(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 50, np.uint8)
    image[:, :, 32:] = 0
    image[:, 10, 10] = 0
    boxes = [[5, 5, 16, 16], [20, 20, 38, 30], [28, 40, 42, 50], [40, 2, 50, 12]]
    found = run(write_raster(tmp_path / "a.tif", image, nodata=0), always(boxes))
    assert sorted(found.boxes.tolist()) == boxes[:2]


def test_boxes_are_clipped_to_the_raster_and_empty_ones_dropped(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 30, 40), 50, np.uint8))
    boxes = [[-5, -5, 10, 10], [30, 20, 60, 60], [45, 5, 60, 20], [3, 3, 3, 9], [np.nan, 1, 5, 5]]
    assert sorted(run(path, always(boxes)).boxes.tolist()) == [[0, 0, 10, 10], [30, 20, 40, 30]]


def test_scores_below_the_threshold_of_the_card_are_dropped(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 64, 64), 50, np.uint8))
    found = run(path, always([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0.29, 0.3, 0.8]))
    assert found.scores.tolist() == [0.8, 0.3]
    assert found.boxes[:, 0].tolist() == [40, 20]


def test_progress_counts_every_tile_with_and_without_data(tmp_path: Path) -> None:
    image = np.zeros((3, 64, 320), np.uint8)
    image[:, :, 64:128] = 50
    path = write_raster(tmp_path / "a.tif", image, nodata=0)
    reports: list[tuple[int, int]] = []
    run(path, find_nothing, tile=64, overlap=0, batch_size=2, progress=lambda *report: reports.append(report))
    assert reports[0] == (0, 5)
    assert reports[-1] == (5, 5)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_memory_is_bounded_by_the_batch_and_not_by_the_raster(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "large.tif", np.full((3, 4000, 6000), 50, np.uint8), tiled=True, compress="deflate", zlevel=1
    )
    tracemalloc.start()
    try:
        run(path, find_nothing, tile=500, overlap=50, batch_size=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4000 * 6000 * 3 / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile must be"),
        ({"tile": 32, "overlap": 32}, "less than tile"),
        ({"overlap": -1}, "overlap must be"),
        ({"overlap": 64}, "less than tile"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 64, 64), 50, np.uint8))
    with pytest.raises(GeoError, match=message):
        run(path, find_blobs, **options)


def test_a_small_tile_alone_shrinks_the_overlap_of_the_card(tmp_path: Path) -> None:
    image, truth = blob_scene(60, 70, seed=5, largest=8)
    assert as_set(run(write_raster(tmp_path / "a.tif", image), find_blobs, tile=24)) == truth


def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 64, 64), 50, np.uint8))
    with pytest.raises(ValueError, match="0 answers for 1"):
        run(path, lambda values: [])
    with pytest.raises(ValueError, match="labels outside"):
        run(path, lambda values: [([[0, 0, 5, 5]], [0.9], [2])])
