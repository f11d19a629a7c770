"""What the bands of tiles give together, against a weighted sum over the whole raster in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dynamicvis.geo import Extent, Grid, tile_grid
from dynamicvis.geo.stitching.assembly import Mosaic, StoredRow
from dynamicvis.geo.stitching.grid import Axis, Tile
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.geo.stitching.rows import RowWriter


def axis_weights(axis: Axis, index: int) -> NDArray[np.float64]:
    """Weights of a tile over its window along one axis, by the definition: sin² over the seams, one between them."""
    pixels = axis.starts[index] + np.arange(axis.tile) + 0.5
    weights = np.ones(axis.tile)
    if index > 0:
        start, end = axis.seams[index - 1]
        weights *= np.sin(np.pi / 2 * np.clip((pixels - start) / max(end - start, 1e-9), 0, 1)) ** 2
    if index < len(axis.seams):
        start, end = axis.seams[index]
        weights *= np.cos(np.pi / 2 * np.clip((pixels - start) / max(end - start, 1e-9), 0, 1)) ** 2
    return weights


def whole(grid: Grid, answers: dict[Tile, NDArray[Any]], channels: int) -> NDArray[np.float64]:
    """Weighted sum of all tiles."""
    edge = grid.tile
    total = np.zeros((channels, grid.height + edge, grid.width + edge))
    for tile, answer in answers.items():
        left, top, right, bottom = tile.window
        rows, columns = axis_weights(grid.rows, tile.row), axis_weights(grid.columns, tile.column)
        total[:, top:bottom, left:right] += answer.astype(np.float64) * rows[:, None] * columns
    return total[:, : grid.height, : grid.width]


def store(
    folder: Path, grid: Grid, specs: list[RasterSpec], answers: dict[Tile, Any], valid: NDArray[np.bool_]
) -> list[StoredRow]:
    """The bands of a raster, those of tiles without data left out."""
    edge = grid.tile
    padded = np.zeros((grid.height + edge, grid.width + edge), bool)
    padded[: grid.height, : grid.width] = valid
    stored = []
    for row in range(len(grid.rows.starts)):
        writer = RowWriter(folder / f"{row}.raw", grid, row, specs)
        for tile in grid.tiles_of_row(row):
            left, top, right, bottom = tile.window
            mask = padded[top:bottom, left:right]
            if mask.any():
                writer.add(tile, {"values": answers[tile]}, mask)
            else:
                writer.add_empty()
        writer.close()
        stored.append(StoredRow(folder / f"{row}.raw", writer.offsets, writer.channels, writer.bands))
    return stored


@pytest.mark.parametrize("seed", range(60))
def test_bands_give_the_weighted_sum_of_all_tiles(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tile = int(generator.integers(1, 20))
    overlap = int(generator.integers(0, tile))
    height, width = generator.integers(1, 60, 2).tolist()
    channels = int(generator.integers(1, 4))
    grid = tile_grid(height, width, tile, overlap)
    dtype = [np.float32, np.float64, np.float16][seed % 3]
    answers = {cell: generator.normal(size=(channels, tile, tile)).astype(dtype) for cell in grid}
    valid = generator.random((height, width)) < 0.8
    for _ in range(3):
        top, left = generator.integers(0, height), generator.integers(0, width)
        valid[top : top + 30, left : left + 30] = False
    valid[generator.integers(height), generator.integers(width)] = True
    values = RasterSpec("values", "values", "float32", None, lambda block: block)
    # What is made of a blended map, and not of each tile's.
    best = RasterSpec("best", "values", "uint8", 255, lambda block: block.argmax(axis=0)[None])
    mosaic = Mosaic(grid, [values, best], store(tmp_path, grid, [values, best], answers, valid))
    expected = whole(grid, answers, channels)
    for window in [Extent(0, 0, width, height), *random_windows(height, width, generator)]:
        found, masks = mosaic.read(window)
        part = (slice(window.top, window.bottom), slice(window.left, window.right))
        mask = valid[part]
        for name in ("values", "best"):
            np.testing.assert_array_equal(masks[name], mask)
        np.testing.assert_allclose(found["values"][:, mask], expected[:, *part][:, mask], atol=2e-6)
        ordered = np.sort(expected[:, *part], axis=0)
        clear = mask & ((ordered[-1] - ordered[-2] > 1e-5) if channels > 1 else True)
        np.testing.assert_array_equal(found["best"][0][clear], expected[:, *part].argmax(axis=0)[clear])


def random_windows(height: int, width: int, generator: np.random.Generator) -> list[Extent]:
    windows = []
    for _ in range(4):
        top, left = int(generator.integers(0, height)), int(generator.integers(0, width))
        bottom, right = int(generator.integers(top, height)) + 1, int(generator.integers(left, width)) + 1
        windows.append(Extent(left, top, right, bottom))
    return windows


def test_one_value_that_is_not_finite_takes_its_pixel_alone(tmp_path: Path) -> None:
    grid = tile_grid(40, 40, 16, 8)
    answers = {cell: np.ones((1, 16, 16), np.float32) for cell in grid}
    lost = np.zeros((40, 40), bool)
    for index, cell in enumerate(grid):
        row, column = 3 + index % 11, 2 + index % 13
        answers[cell][0, row, column] = [np.nan, np.inf, -np.inf][index % 3]
        rows, columns = axis_weights(grid.rows, cell.row), axis_weights(grid.columns, cell.column)
        lost[cell.window.top + row, cell.window.left + column] |= rows[row] * columns[column] > 0
    values = RasterSpec("values", "values", "float32", None, lambda block: block)
    with np.errstate(invalid="ignore"):
        mosaic = Mosaic(grid, [values], store(tmp_path, grid, [values], answers, np.ones((40, 40), bool)))
        found, masks = mosaic.read(Extent(0, 0, 40, 40))
    assert lost.any()
    np.testing.assert_array_equal(masks["values"], ~lost)
    np.testing.assert_allclose(found["values"][0][~lost], 1, atol=1e-6)
