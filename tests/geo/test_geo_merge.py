"""Objects found tile by tile against those found in one window over the whole raster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from geo_scenes import blob_scene
from numpy.typing import NDArray

from dynamicvis.geo.stitching.grid import Extent, Tile, tile_grid
from dynamicvis.geo.stitching.merge import Candidates, claim, without_duplicates
from dynamicvis.geo.stitching.outlines import label_regions
from dynamicvis.geo.stitching.polygons import mask_polygons


def crosses(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Rectangles of `blob_scene` with bites taken out, so that their masks are not their boxes; blobs keep touching."""
    image, truth = blob_scene(height, width, seed)
    generator = np.random.default_rng(seed)
    for left, top, right, bottom, _ in sorted(truth):
        corner = generator.integers(4)
        w, h = (right - left) // 2, (bottom - top) // 2
        x = left if corner % 2 else right - w
        y = top if corner < 2 else bottom - h
        image[:, y : y + h, x : x + w] = 20
    return image


def look(image: NDArray[np.uint8], window: Extent) -> tuple[Any, Any, Any, Any]:
    """Boxes, scores, labels and masks of the blobs in a window, in its pixels; outside of the image it is dark."""
    height, width = image.shape[1:]
    seen = np.full((3, window.bottom - window.top, window.right - window.left), 20, np.uint8)
    part = image[:, window.top : window.bottom, window.left : window.right]
    seen[:, : min(part.shape[1], height), : min(part.shape[2], width)] = part
    classes = np.where(seen[0] > 200, 0, np.where(seen[1] > 200, 1, -1)).astype(np.int32)
    numbers, count = label_regions(np.pad(classes, 1, constant_values=-1))
    masks = numbers == np.arange(count)[:, None, None]
    labels = np.array([classes[mask][0] for mask in masks], np.int64)
    scores = np.array([seen[2][mask].mean() / 255 for mask in masks], np.float64)
    boxes = shapely.bounds(mask_polygons(masks)).reshape(-1, 4)
    return boxes, scores, labels, masks


def found_by(image: NDArray[np.uint8], tiles: list[Tile], stride: int, with_masks: bool) -> Candidates:
    height, width = image.shape[1:]
    found = []
    for tile in tiles:
        boxes, scores, labels, masks = look(image, tile.window)
        corner = np.array([*tile.window[:2], *tile.window[:2]])
        polygons = mask_polygons(masks, tile.window[:2]) if with_masks else None
        found.append((tile, claim(tile, boxes + corner, scores, labels, height, width, polygons)))
    return without_duplicates(found, stride)


def as_set(found: Candidates) -> set[Any]:
    shapes = shapely.box(*found.boxes.T) if found.polygons is None else found.polygons
    named = {
        (shapely.to_wkb(shapely.normalize(shape)), label, round(score, 9))
        for shape, label, score in zip(shapes, found.labels.tolist(), found.scores.tolist(), strict=True)
    }
    assert len(named) == len(found)
    return named


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("scene", [blob_scene, crosses])
@pytest.mark.parametrize(("height", "width"), [(150, 170), (64, 65), (20, 30), (97, 200)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (48, 20), (40, 30), (32, 18)])
def test_tiles_find_what_one_window_finds(
    height: int, width: int, tile: int, overlap: int, scene: Any, with_masks: bool
) -> None:
    image = scene(height, width, seed=tile + overlap)
    image = image[0] if isinstance(image, tuple) else image
    (window,) = tile_grid(height, width, max(height, width), 0)
    once = as_set(found_by(image, [window], max(height, width), with_masks))
    grid = tile_grid(height, width, tile, overlap)
    assert as_set(found_by(image, grid, tile - overlap, with_masks)) == once
    assert once


def two_tiles(*polygons: list[Any], scores: tuple[float, float] = (0.5, 0.9)) -> Candidates:
    """Objects of two tiles side by side (64 pixels, overlap 32, raster 64 x 96), as polygons."""
    found = []
    for tile, own, score in zip(tile_grid(64, 96, 64, 32), polygons, scores, strict=True):
        count = len(own)
        shapes = np.array(own, dtype=object)
        found.append(
            (tile, claim(tile, np.zeros((count, 4)), np.full(count, score), np.zeros(count, int), 64, 96, shapes))
        )
    return without_duplicates(found, 32)


def test_slanted_objects_side_by_side_stay_two_although_their_boxes_overlap() -> None:
    one = shapely.Polygon([(36, 20), (40, 20), (62, 42), (58, 42)])
    other = shapely.transform(one, lambda points: points + np.array([5, 0]))
    overlap = shapely.box(*one.bounds).intersection(shapely.box(*other.bounds)).area
    assert overlap / shapely.box(*one.bounds).area > 0.7
    assert len(two_tiles([one], [other])) == 2
    assert len(two_tiles([one], [shapely.transform(one, lambda points: points + np.array([1, 0]))])) == 1


def test_a_part_falls_to_its_whole_and_a_whole_never_to_a_small_part() -> None:
    whole, part = shapely.box(36, 20, 56, 28), shapely.box(48, 20, 54, 28)
    assert two_tiles([whole], [part], scores=(0.9, 0.5)).polygons.tolist() == [whole]
    # The part has the better score, and both are in the core of their tile.
    assert whole in two_tiles([whole], [part], scores=(0.5, 0.9)).polygons.tolist()


def test_a_thin_object_shifted_by_half_of_its_width_is_one() -> None:
    thin = shapely.box(40, 20, 56, 22)
    shifted = shapely.box(40, 21, 56, 23)
    assert len(two_tiles([thin], [shifted])) == 1


@pytest.mark.parametrize("scores", [(0.5, 0.9), (0.9, 0.5)])
def test_a_mask_that_its_window_cuts_never_wins(scores: tuple[float, float]) -> None:
    whole = shapely.box(36, 20, 66, 40)
    assert two_tiles([shapely.clip_by_rect(whole, 0, 0, 64, 64)], [whole], scores=scores).polygons.tolist() == [whole]
    whole = shapely.box(30, 20, 60, 40)
    assert two_tiles([whole], [shapely.clip_by_rect(whole, 32, 0, 96, 64)], scores=scores).polygons.tolist() == [whole]


def test_masks_are_clipped_to_the_raster_and_empty_ones_dropped() -> None:
    (tile,) = tile_grid(30, 40, 64, 0)
    polygons = np.array(
        [
            shapely.box(30, 20, 50, 50),
            shapely.box(45, 5, 60, 20),
            shapely.Polygon(),
            shapely.Polygon([(36, 2), (50, 2), (50, 12), (36, 12), (36, 9), (44, 9), (44, 5), (36, 5)]),
        ],
        dtype=object,
    )
    found = claim(tile, np.zeros((4, 4)), np.full(4, 0.5), np.zeros(4, np.int64), 30, 40, polygons)
    assert [polygon.area for polygon in found.polygons] == [100, 24]
    assert found.boxes.tolist() == [[30, 20, 40, 30], [36, 2, 40, 12]]
    assert {polygon.geom_type for polygon in found.polygons} == {"MultiPolygon"}
