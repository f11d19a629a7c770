"""The tile grid: overlapping windows that cover a raster, and cores that partition it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Extent(NamedTuple):
    """Half-open pixel rectangle: columns ``left <= x < right``, rows ``top <= y < bottom``."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Tile:
    """One cell of the grid.

    Attributes:
        row, column: place in the grid, from 0.
        window: what the model sees, always ``tile`` pixels wide and high. It leaves the raster only where the
            raster is smaller than the tile.
        core: the part of the raster that this tile answers for. Between neighbours the overlap is halved; the edge
            of the raster belongs to the tile at the edge.
    """

    row: int
    column: int
    window: Extent
    core: Extent


def tile_grid(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Cover a raster with full-size windows, row by row.

    The last window of a row or column is shifted inward so that it ends at the edge of the raster. The cores of all
    tiles partition the raster: each pixel lies in exactly one.

    Args:
        height, width: size of the raster, pixels, at least 1.
        tile: edge of a window, pixels, at least 1.
        overlap: least overlap of neighbouring windows, pixels, ``0 <= overlap < tile``.

    Raises:
        ValueError: a size out of these bounds.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a raster has at least one pixel, not {height} x {width}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be at least 0 and less than tile, not {overlap} with tile {tile}")
    rows, columns = _cut_axis(height, tile, overlap), _cut_axis(width, tile, overlap)
    return [
        Tile(
            row,
            column,
            window=Extent(left, top, left + tile, top + tile),
            core=Extent(core_left, core_top, core_right, core_bottom),
        )
        for row, (top, core_top, core_bottom) in enumerate(rows)
        for column, (left, core_left, core_right) in enumerate(columns)
    ]


def _cut_axis(size: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Start of the window, start and end of the core, for each tile along one axis."""
    starts = [*range(0, max(size - tile, 0), tile - overlap), max(size - tile, 0)]
    # The middle of an overlap: halfway between the start of a window and the end of the window before it.
    borders = [(before + tile + after) // 2 for before, after in pairwise(starts)]
    return list(zip(starts, [0, *borders], [*borders, size], strict=True))
