"""One object per object: the same object found by neighbouring tiles is kept once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from dynamicvis.geo.stitching.grid import Tile

_SAME_OBJECT = 0.5  # overlap from which two boxes or masks of two tiles are one object
_EDGE = 2.0  # a box that ends this close to the edge of its window may be cut by it, pixels
# Two tiles may place one object on either side of the border of their cores, so that neither owns it. Boxes are also
# kept this fraction of their edge beyond the core: a shift up to twice of it is one where both still count as the
# same object (two equal boxes shifted by a third of their edge have an intersection over union of 0.5).
_REACH = 1 / 6


@dataclass(frozen=True)
class Candidates:
    """Objects of one or more tiles before duplicates are removed.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels of the raster.
        scores: (N,) 0 to 1.
        labels: (N,) class indices.
        cut: (N,) the box ends at an edge of its window inside the raster, where the object may go on.
        owned: (N,) the centre lies in the core of its tile.
        polygons: (N,) outlines in pixels of the raster, where the objects have masks. The boxes are then theirs.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    cut: NDArray[np.bool_]
    owned: NDArray[np.bool_]
    polygons: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.generic]) -> Candidates:
        """The objects at an index or mask."""
        values: list[Any] = [getattr(self, field.name) for field in fields(self)]
        taken: list[Any] = [None if value is None else value[index] for value in values]
        return Candidates(*taken)


def claim(
    tile: Tile,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    height: int,
    width: int,
    polygons: NDArray[np.object_] | None = None,
) -> Candidates:
    """Choose the objects that a tile may answer for: those with their centre in its core, or a little outside.

    Boxes and polygons, in pixels of the raster, are clipped to the tile's window and to the raster (height, width);
    those with nothing left, or with coordinates that are not finite, are dropped. With polygons, an object's box is
    that of its polygon, whatever ``boxes`` says: what a mask covers is what is compared and written.
    """
    window, core = tile.window, tile.core
    low = np.array([max(window.left, 0), max(window.top, 0)], np.float64)
    high = np.array([min(window.right, width), min(window.bottom, height)], np.float64)
    if polygons is not None:
        bounds = shapely.bounds(polygons).reshape(-1, 4)
        beyond = np.flatnonzero((bounds[:, :2] < low).any(axis=1) | (bounds[:, 2:] > high).any(axis=1))
        polygons = polygons.copy()
        polygons[beyond] = _areal(shapely.intersection(polygons[beyond], shapely.box(*low, *high)))
        boxes = shapely.bounds(polygons).reshape(-1, 4)
    boxes = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    core_low, core_high = np.array(core[:2]), np.array(core[2:])
    owned = (centres >= core_low) & (centres < core_high)
    near = (centres >= core_low - _REACH * sides) & (centres < core_high + _REACH * sides) & (sides > 0)
    cut = (boxes[:, :2] < low + _EDGE) & (low > 0)
    cut |= (boxes[:, 2:] > high - _EDGE) & (high < (width, height))
    found = Candidates(boxes, scores, labels, cut[:, 0] | cut[:, 1], owned[:, 0] & owned[:, 1], polygons)
    return found.take(near[:, 0] & near[:, 1])


def without_duplicates(found: list[tuple[Tile, Candidates]], stride: int) -> Candidates:
    """Drop all but the best of the objects that several tiles found; classes never suppress each other.

    Two boxes of *different* tiles are one object when their intersection over union reaches 0.5, or when one of
    them is cut by its window and half of it lies in the other. A mask falls when half of it lies in a better one,
    whatever their boxes: those of ships moored side by side, slanted, overlap by more than half, yet no pixel belongs
    to two objects of a class. So a part falls to its whole, while an object is never lost to a small part of it.

    The best is one that its window does not cut, then one in the core of its tile, then the one with the higher score.
    An object no larger than the overlap is whole in the tile whose core holds its centre. Objects of one tile are never
    compared: that was the model's own choice.

    Args:
        found: tiles with their candidates, in any order.
        stride: distance of neighbouring windows, pixels.

    Returns:
        The kept objects, best score first, in an order that does not depend on the order of ``found``.
    """
    found = sorted((item for item in found if len(item[1])), key=lambda item: (item[0].row, item[0].column))
    if not found:
        return empty_candidates()
    parts = [part for _, part in found]
    merged = _concatenate(parts)
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    rank = np.empty(len(merged), np.int64)
    rank[_order(merged, ~merged.owned, merged.cut)] = np.arange(len(merged))

    edges = [np.empty((0, 2), np.int64)]
    for first, second in _neighbours([tile for tile, _ in found], stride):
        ranks = (rank[offsets[index] : offsets[index + 1]] for index in (first, second))
        pairs = _same_objects(parts[first], parts[second], *ranks)
        edges.append(pairs + offsets[[first, second]])
    ranked = np.sort(rank[np.concatenate(edges)], axis=1)
    alive = np.ones(len(merged), bool)
    for better, worse in ranked[np.argsort(ranked[:, 0], kind="stable")]:
        if alive[better]:
            alive[worse] = False
    kept = merged.take(alive[rank])
    return kept.take(_order(kept))


def empty_candidates() -> Candidates:
    """No objects at all."""
    none = np.empty(0)
    return Candidates(np.empty((0, 4)), none, none.astype(np.int64), none.astype(bool), none.astype(bool))


def _concatenate(parts: list[Candidates]) -> Candidates:
    """Parts of which all have polygons, or none."""
    columns: list[list[Any]] = [[getattr(part, field.name) for part in parts] for field in fields(Candidates)]
    joined: list[Any] = [None if values[0] is None else np.concatenate(values) for values in columns]
    return Candidates(*joined)


def _order(found: Candidates, *later: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices from best to worst score; those of a mask ``later`` come last, the last mask first."""
    return np.lexsort((found.labels, *found.boxes.T[::-1], -found.scores, *later))


def _neighbours(tiles: list[Tile], stride: int) -> Iterator[tuple[int, int]]:
    """Pairs of indices of tiles whose windows intersect."""
    places: dict[int, dict[int, int]] = defaultdict(dict)
    for index, tile in enumerate(tiles):
        places[tile.row][tile.column] = index
    for index, tile in enumerate(tiles):
        # The last window is shifted inward and so may meet one window more than the stride tells.
        reach = (tile.window.right - tile.window.left - 1) // stride + 1
        for row in range(tile.row, tile.row + reach + 1):
            for column in range(tile.column - reach, tile.column + reach + 1):
                other = places.get(row, {}).get(column)
                if other is not None and other > index and _intersect(tile, tiles[other]):
                    yield index, other


def _intersect(first: Tile, second: Tile) -> bool:
    a, b = first.window, second.window
    return a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom


def _same_objects(
    first: Candidates, second: Candidates, first_rank: NDArray[np.int64], second_rank: NDArray[np.int64]
) -> NDArray[np.intp]:
    """(P, 2) indices into both of the pairs that are one object; ranks are 0 for the best."""
    a, b = first.boxes[:, None], second.boxes[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(min=0).prod(axis=2)
    alike = first.labels[:, None] == second.labels[None]
    if first.polygons is not None and second.polygons is not None:
        pairs = np.argwhere((intersection > 0) & alike)
        mine, theirs = first.polygons[pairs[:, 0]], second.polygons[pairs[:, 1]]
        worse = np.where(first_rank[pairs[:, 0]] > second_rank[pairs[:, 1]], mine, theirs)
        return pairs[shapely.area(shapely.intersection(mine, theirs)) >= _SAME_OBJECT * shapely.area(worse)]
    area_a = (a[..., 2:] - a[..., :2]).prod(axis=2)
    area_b = (b[..., 2:] - b[..., :2]).prod(axis=2)
    same = intersection >= _SAME_OBJECT * (area_a + area_b - intersection)
    same |= first.cut[:, None] & (intersection >= _SAME_OBJECT * area_a)
    same |= second.cut[None] & (intersection >= _SAME_OBJECT * area_b)
    return np.argwhere(same & alike)


def _areal(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons and multipolygons of an intersection; lines and points where it only touches are left out."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    kept = shapely.get_dimensions(parts) == 2
    areal = np.full(len(geometries), shapely.Polygon(), dtype=object)
    return shapely.multipolygons(parts[kept], indices=owner[kept], out=areal)
