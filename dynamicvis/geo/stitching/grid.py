"""The tile grid: overlapping windows that cover a raster, cores that partition it, and weights that sum to one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dynamicvis.tiling import Extent, starts


@dataclass(frozen=True)
class Tile:
    """One cell of the grid.

    Attributes:
        row, column: place in the grid, from 0.
        window: what the model sees, always ``tile`` pixels wide and high. It leaves the raster where the raster is
            smaller than the tile, and by a few pixels where windows are aligned.
        core: the part of the raster that this tile answers for. Between neighbours the overlap is halved; the edge
            of the raster belongs to the tile at the edge.
    """

    row: int
    column: int
    window: Extent
    core: Extent


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis, and the seams between them.

    A seam is where two neighbours are blended: around the border of their cores, as wide as their overlap allows
    without meeting the next seam, so that never more than two tiles share a pixel of the axis.

    Attributes:
        size: pixels of the raster.
        tile: pixels of a window.
        starts: first pixel of each window.
        cores: (start, end) of each core.
    """

    size: int
    tile: int
    starts: tuple[int, ...]
    cores: tuple[tuple[int, int], ...]

    @cached_property
    def seams(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of the seam between each tile and the next; empty where neighbours do not overlap."""
        seams = []
        for index, (start, border) in enumerate(self.cores[:-1]):
            overlap_start, overlap_end = self.starts[index + 1], self.starts[index] + self.tile
            half = min(
                border - overlap_start,
                overlap_end - border,
                (border - start) // (1 if index == 0 else 2),
                (self.cores[index + 1][1] - border) // (1 if index == len(self.cores) - 2 else 2),
            )
            seams.append((border - max(half, 0), border + max(half, 0)))
        return tuple(seams)

    def reach(self, index: int) -> tuple[int, int]:
        """(start, end) of the pixels where a tile has a weight: its core and the halves of the seams beyond."""
        start = 0 if index == 0 else self.seams[index - 1][0]
        end = self.size if index == len(self.cores) - 1 else self.seams[index][1]
        return start, end

    def ramp(self, seam: int) -> NDArray[np.float32]:
        """Weights of the later of the two tiles over a seam, sin² from 0 to 1; the earlier has one minus these."""
        start, end = self.seams[seam]
        return np.sin(np.pi / 2 * (np.arange(end - start) + 0.5) / max(end - start, 1)).astype(np.float32) ** 2


class Grid:
    """Tiles of a raster, row by row.

    Attributes:
        height, width: size of the raster, pixels.
        tile: edge of a window, pixels.
        stride: distance of neighbouring windows, pixels; the last of a row or column may be nearer.
        rows, columns: the axes.
    """

    def __init__(self, rows: Axis, columns: Axis, stride: int) -> None:
        self.height, self.width, self.tile, self.stride = rows.size, columns.size, rows.tile, stride
        self.rows, self.columns = rows, columns

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[Tile]:
        return (tile for row in range(len(self.rows.starts)) for tile in self.tiles_of_row(row))

    def tiles_of_row(self, row: int) -> Iterator[Tile]:
        """The tiles of one row, from left to right."""
        top = self.rows.starts[row]
        core_top, core_bottom = self.rows.cores[row]
        for column, (left, (core_left, core_right)) in enumerate(
            zip(self.columns.starts, self.columns.cores, strict=True)
        ):
            yield Tile(
                row,
                column,
                window=Extent(left, top, left + self.tile, top + self.tile),
                core=Extent(core_left, core_top, core_right, core_bottom),
            )


def tile_grid(height: int, width: int, tile: int, overlap: int, align: int = 1) -> Grid:
    """Cover a raster with full-size windows.

    The last window of a row or column is shifted inward so that it ends at the edge of the raster, or less than
    ``align`` pixels beyond. The cores of all tiles partition the raster: each pixel lies in exactly one.

    Args:
        height, width: size of the raster, pixels, at least 1.
        tile: edge of a window, pixels, at least 1.
        overlap: least overlap of neighbouring windows, pixels, ``0 <= overlap < tile``.
        align: all windows start at multiples of this, pixels, if the distance of neighbours is one. A backbone that
            divides its input by strides then sees a pixel in the same place of its grid in every window.

    Raises:
        ValueError: a size out of these bounds.
    """
    _check(height, width)
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be at least 0 and less than tile, not {overlap} with tile {tile}")
    stride = tile - overlap
    align = align if stride % align == 0 else 1
    return Grid(_overlapping(height, tile, stride, align), _overlapping(width, tile, stride, align), stride)


def cell_grid(height: int, width: int, cell: int) -> Grid:
    """Cut a raster into square cells from its top left corner; those at the right and bottom edge are smaller.

    The window of a smaller cell is shifted inward, so that the model sees ``cell`` pixels there too.

    Raises:
        ValueError: a size below 1.
    """
    _check(height, width)
    if cell < 1:
        raise ValueError(f"a cell has at least one pixel, not {cell}")
    return Grid(_cells(height, cell), _cells(width, cell), cell)


def _check(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"a raster has at least one pixel, not {height} x {width}")


def _overlapping(size: int, tile: int, stride: int, align: int) -> Axis:
    begins = starts(size, tile, stride, align)
    # The middle of an overlap: halfway between the start of a window and the end of the window before it.
    borders = [0, *((before + tile + after) // 2 for before, after in pairwise(begins)), size]
    return Axis(size, tile, tuple(begins), tuple(pairwise(borders)))


def _cells(size: int, cell: int) -> Axis:
    begins = range(0, size, cell)
    windows = (min(begin, max(size - cell, 0)) for begin in begins)
    cores = ((begin, min(begin + cell, size)) for begin in begins)
    return Axis(size, cell, tuple(windows), tuple(cores))
