"""Objects of single tiles: which of them a tile may answer for, and how they are kept until all tiles are done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from dynamicvis.geo.stitching.grid import Tile
from dynamicvis.geo.stitching.merge import Candidates, claim
from dynamicvis.geo.stitching.polygons import mask_polygons
from dynamicvis.tile_model import TileObjects

_FIELDS = [field.name for field in fields(Candidates)]
_OUTLINES, _ENDS = "polygons", "polygon_ends"


def to_candidates(
    tile: Tile, found: TileObjects, valid: NDArray[np.bool_], shape: tuple[int, int], score_threshold: float
) -> Candidates:
    """Objects that a tile may answer for, in pixels of the raster.

    Boxes are clipped to the raster; objects whose centre, and the greater part of whose box, lies on NoData are
    dropped, and so are scores below the threshold. Masks lose their pixels without data.

    Args:
        tile: where they were found.
        found: in pixels of the tile.
        valid: (height, width) where the tile has data.
        shape: height and width of the raster, pixels.
        score_threshold: lowest score that is kept.
    """
    confident = np.asarray(found.scores) >= score_threshold
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)[confident]
    corner = np.array([*tile.window[:2], *tile.window[:2]], np.float64)
    scores, labels = np.asarray(found.scores, np.float64)[confident], np.asarray(found.labels, np.int64)[confident]
    outlines = None
    if found.masks is not None:
        outlines = mask_polygons(found.masks[confident] & valid, (tile.window.left, tile.window.top))
    candidates = claim(tile, boxes + corner, scores, labels, *shape, outlines)
    if outlines is not None:
        return candidates
    return candidates.take(_on_data(candidates.boxes - corner, valid))


def candidate_arrays(found: Sequence[tuple[Tile, Candidates]]) -> dict[str, NDArray[Any]]:
    """Candidates of the tiles of one row as arrays for a file."""
    if not found:
        return {}
    arrays = {
        name: np.concatenate([getattr(candidates, name) for _, candidates in found])
        for name in _FIELDS
        if getattr(found[0][1], name) is not None
    }
    if _OUTLINES in arrays:
        outlines = [np.frombuffer(shape, np.uint8) for shape in shapely.to_wkb(arrays[_OUTLINES])]
        arrays[_OUTLINES] = np.concatenate([np.empty(0, np.uint8), *outlines])
        arrays[_ENDS] = np.cumsum([len(outline) for outline in outlines], dtype=np.int64)
    arrays["columns"] = np.concatenate([np.full(len(candidates), tile.column) for tile, candidates in found])
    return arrays


def load_candidates(arrays: Mapping[str, NDArray[Any]], tiles: Sequence[Tile]) -> Iterator[tuple[Tile, Candidates]]:
    """The candidates of each tile of a row that has some, from the arrays of `candidate_arrays`."""
    if "columns" not in arrays:
        return
    columns = arrays["columns"]
    values = {name: arrays[name] for name in _FIELDS if name in arrays}
    if _OUTLINES in values:
        content, ends = values[_OUTLINES].tobytes(), arrays[_ENDS].tolist()
        outlines = [content[start:end] for start, end in pairwise([0, *ends])]
        values[_OUTLINES] = shapely.from_wkb(np.array(outlines, dtype=object))
    together = Candidates(**values)
    for column in np.unique(columns):
        yield tiles[column], together.take(np.flatnonzero(columns == column))


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file of arrays, on the disk when this returns."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())


def _on_data(boxes: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each box (N, 4), in pixels of the window, has data at its centre, or at least on half of its pixels.

    The second clause keeps an object with a stray NoData pixel, such as a saturated one, in its very middle.
    """
    columns, rows = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64).T
    kept = valid[rows, columns]
    for index in np.flatnonzero(~kept):
        left, top = np.floor(boxes[index, :2]).astype(np.int64)
        right, bottom = np.ceil(boxes[index, 2:]).astype(np.int64)
        kept[index] = valid[top:bottom, left:right].mean() >= 0.5
    return kept
