"""The results of one row of tiles on disk: blended from left to right, open to the rows above and below.

What a row can finish alone, the pixels between the seams to the rows above and below, is stored in the type of the
output; over those two seams it stores its own weighted share in float32, and the two shares of a seam are added when
the raster is put together. So rows of tiles are made in any order, by any process, and memory holds one tile's maps,
whatever the width of the raster.

The file of a row holds one record a tile, one behind the other; tiles without data have none. A record covers the
columns from the tile's left seam up to its right one. Its parts, each starting at a multiple of 8 bytes: the mask, one
array (bands, rows, columns) for each raster, and for each map two arrays (channels, rows, columns), its top and its
bottom share.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.stitching.grid import Grid, Tile
from dynamicvis.geo.stitching.raster_spec import RasterSpec

_ALIGNMENT = 8
_ROWS = 64  # converted at a time


@dataclass(frozen=True)
class Record:
    """One tile's part of a row.

    Attributes:
        mask: (rows, columns) 1 where there is data, over all pixel rows of the row of tiles.
        values: (bands, rows, columns) by name of the raster, between the seams.
        top, bottom: (channels, rows, columns) weighted shares by name of the map, over the seams.
    """

    mask: NDArray[np.uint8]
    values: Mapping[str, NDArray[Any]]
    top: Mapping[str, NDArray[np.float32]]
    bottom: Mapping[str, NDArray[np.float32]]


class RowLayout:
    """Places of a row of tiles in the raster and in its file.

    Attributes:
        rows: first pixel row of the row of tiles, first between the seams, first of the lower seam, first below.
        columns: first column of each record, and the width of the raster.
        channels: of each map, by name.
        bands: of each raster, by name.
    """

    def __init__(
        self, grid: Grid, row: int, rasters: Sequence[RasterSpec], channels: Mapping[str, int], bands: Mapping[str, int]
    ) -> None:
        self.rows = pixel_rows(grid, row)
        self.columns = record_columns(grid)
        self.channels, self.bands = dict(channels), dict(bands)
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in rasters}

    def parts(self, column: int) -> list[tuple[str, str, np.dtype[Any], tuple[int, ...]]]:
        """Kind, name, type and shape of the arrays of a record, in the order of the file."""
        top, inner, lower, bottom = self.rows
        width = self.columns[column + 1] - self.columns[column]
        byte, single = np.dtype(np.uint8), np.dtype(np.float32)
        values = [
            ("values", name, self._dtypes[name], (bands, lower - inner, width)) for name, bands in self.bands.items()
        ]
        shares = [
            (kind, name, single, (count, rows, width))
            for name, count in self.channels.items()
            for kind, rows in (("top", inner - top), ("bottom", bottom - lower))
        ]
        return [("mask", "", byte, (bottom - top, width)), *values, *shares]

    def read(self, content: NDArray[np.uint8], offset: int, column: int) -> Record:
        """The record at a place of the file, as views of its bytes."""
        found: dict[str, dict[str, NDArray[Any]]] = {"mask": {}, "values": {}, "top": {}, "bottom": {}}
        for kind, name, dtype, shape in self.parts(column):
            size = int(np.prod(shape)) * dtype.itemsize
            found[kind][name] = content[offset : offset + size].view(dtype).reshape(shape)
            offset += size + -size % _ALIGNMENT
        return Record(found["mask"][""], found["values"], found["top"], found["bottom"])


class RowWriter:
    """Blends the tiles of one row, given from left to right, into its file.

    Args:
        path: file to write.
        grid, row: which row of tiles.
        rasters: what is made of the maps.
    """

    def __init__(self, path: Path, grid: Grid, row: int, rasters: Sequence[RasterSpec]) -> None:
        self._file = path.open("wb")
        self._grid, self._row, self._rasters = grid, row, rasters
        self._columns = record_columns(grid)
        self._top, self._inner, self._lower, self._bottom = pixel_rows(grid, row)
        self._carried: dict[str, NDArray[np.float32]] = {}
        self.offsets: list[int] = []
        self.channels: dict[str, int] = {}
        self.bands: dict[str, int] = {}

    def add(self, tile: Tile, maps: Mapping[str, NDArray[np.float32]], valid: NDArray[np.bool_]) -> None:
        """Blend the maps (K, tile, tile) of the next tile, with its mask of pixels with data, into the row."""
        self._check(maps)
        maps = {name: np.asarray(values, np.float32) for name, values in maps.items()}
        window = tile.window
        left, right = self._grid.columns.reach(tile.column)
        end = self._columns[tile.column + 1]
        rows = slice(self._top - window.top, self._bottom - window.top)
        pieces = []
        start = left
        if self._carried:
            weights = self._grid.columns.ramp(tile.column - 1)
            start = left + len(weights)
            seam = slice(left - window.left, start - window.left)
            pieces.append(
                {
                    name: values[:, rows, seam] * weights + self._carried[name] * (1 - weights)
                    for name, values in maps.items()
                }
            )
        inside = slice(start - window.left, end - window.left)
        pieces.append({name: values[:, rows, inside] for name, values in maps.items()})
        self._carried = {
            name: values[:, rows, end - window.left : right - window.left].copy()
            for name, values in maps.items()
            if right > end
        }
        self._write(pieces, valid[rows, left - window.left : end - window.left])

    def add_empty(self) -> None:
        """The next tile has no data; what its neighbours blend with it has none either."""
        self._carried = {}
        self.offsets.append(-1)

    def close(self) -> None:
        """Write everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):  # What is left to write may find no room.
            self._file.close()
        Path(self._file.name).unlink(missing_ok=True)

    def _write(self, pieces: Sequence[Mapping[str, NDArray[np.float32]]], valid: NDArray[np.bool_]) -> None:
        """Write a record of pieces that lie side by side."""
        self.offsets.append(self._file.tell())
        inner, lower = self._inner - self._top, self._lower - self._top
        mask = valid.astype(np.uint8)
        values, shares = [], []
        for spec in self._rasters:
            parts = [convert(spec, piece[spec.source][:, inner:lower]) for piece in pieces]
            values.append(_side_by_side([part for part, _ in parts]))
            mask[inner:lower] &= _side_by_side([finite for _, finite in parts])
            self.bands[spec.name] = len(values[-1])
        for name in pieces[0]:
            shares.append(self._share([piece[name][:, :inner] for piece in pieces], self._row - 1))
            shares.append(self._share([piece[name][:, lower:] for piece in pieces], self._row))
            self.channels[name] = len(shares[-1])
        for array in (mask, *values, *shares):
            self._file.write(np.ascontiguousarray(array).data)
            self._file.write(bytes(-array.nbytes % _ALIGNMENT))

    def _share(self, pieces: list[NDArray[np.float32]], seam: int) -> NDArray[np.float32]:
        block = _side_by_side(pieces)
        if not block.shape[1]:
            return block
        ramp = self._grid.rows.ramp(seam)
        weights = 1 - ramp if seam == self._row else ramp
        return block * weights[:, None]

    def _check(self, maps: Mapping[str, NDArray[np.float32]]) -> None:
        needed = {spec.source for spec in self._rasters}
        if set(maps) != needed:
            raise ValueError(f"the model gave the maps {sorted(maps)} where {sorted(needed)} were expected")
        for name, values in maps.items():
            edge = self._grid.tile
            if values.ndim != 3 or values.shape[1:] != (edge, edge) or not len(values):
                raise ValueError(f"the model gave {name} of shape {values.shape} for a tile of {edge} x {edge} pixels")
            if self.channels.get(name, len(values)) != len(values):
                raise ValueError(f"the model gave {len(values)} channels of {name} after {self.channels[name]}")


def pixel_rows(grid: Grid, row: int) -> tuple[int, int, int, int]:
    """First pixel row of a row of tiles, of its part between the seams, of its lower seam, and the first below it."""
    top, bottom = grid.rows.reach(row)
    seams = grid.rows.seams
    inner = top if row == 0 else seams[row - 1][1]
    lower = bottom if row == len(seams) else seams[row][0]
    return top, inner, lower, bottom


def record_columns(grid: Grid) -> list[int]:
    """First column of the record of each tile of a row, and the width of the raster."""
    count = len(grid.columns.starts)
    return [*(grid.columns.reach(column)[0] for column in range(count)), grid.width]


def convert(spec: RasterSpec, block: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """A blended map (K, rows, columns) as the raster's values, and where all of its channels are finite.

    A pixel that is not finite has no value: the model found none there.
    """
    finite = np.empty(block.shape[1:], bool)
    parts = []
    # Some rows at a time, so that what lies between two steps stays in the cache.
    for top in range(0, max(block.shape[1], 1), _ROWS):
        part = block[:, top : top + _ROWS]
        np.isfinite(part).all(axis=0, out=finite[top : top + _ROWS])
        if not finite[top : top + _ROWS].all():
            part = np.where(finite[top : top + _ROWS], part, 0)
        parts.append(cast(spec.convert(part), spec.dtype))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), finite


def cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Values in another type; integers by rounding, clipped to the type's range."""
    target = np.dtype(dtype)
    if values.dtype == target or target.kind == "f":
        return values.astype(target, copy=False)
    limits = np.iinfo(target)
    # float32 cannot hold the largest int32; its own largest value below it can be cast.
    highest = np.nextafter(np.float32(limits.max), np.float32(0)) if limits.bits >= 32 else limits.max
    rounded = np.rint(values)
    return np.clip(rounded, limits.min, highest, out=rounded).astype(target)


def _side_by_side(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
