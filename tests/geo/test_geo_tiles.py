from __future__ import annotations

import numpy as np
import pytest

from dynamicvis.geo.stitching.grid import Axis, cell_grid, tile_grid

SIZES = [
    (height, width, tile, overlap)
    for tile, overlap in [(1, 0), (2, 1), (7, 0), (8, 2), (8, 3), (9, 8), (16, 12)]
    for height, width in [(1, 1), (tile - 1 or 1, tile), (tile, tile + 1), (tile + 1, 3 * tile), (41, 23), (1, 50)]
]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_cores_partition_the_raster_and_lie_in_their_windows(height: int, width: int, tile: int, overlap: int) -> None:
    owners = np.zeros((height, width), int)
    for cell in tile_grid(height, width, tile, overlap):
        window, core = cell.window, cell.core
        owners[core.top : core.bottom, core.left : core.right] += 1
        assert window.left <= core.left < core.right <= window.right
        assert window.top <= core.top < core.bottom <= window.bottom
    assert (owners == 1).all()


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_windows_are_full_size_and_inside_a_large_enough_raster(
    height: int, width: int, tile: int, overlap: int
) -> None:
    for cell in tile_grid(height, width, tile, overlap):
        left, top, right, bottom = cell.window
        assert (right - left, bottom - top) == (tile, tile)
        assert left >= 0
        assert top >= 0
        assert right <= max(width, tile)
        assert bottom <= max(height, tile)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_cores_keep_half_the_overlap_from_window_edges_inside_the_raster(
    height: int, width: int, tile: int, overlap: int
) -> None:
    for cell in tile_grid(height, width, tile, overlap):
        for axis, size in ((0, width), (1, height)):
            low, high = cell.window[axis], cell.window[axis + 2]
            assert cell.core[axis] - low >= overlap // 2 or low == 0
            assert high - cell.core[axis + 2] >= overlap // 2 or high >= size


def test_number_of_tiles_is_the_least_possible() -> None:
    assert len(tile_grid(100, 100, 100, 30)) == 1
    assert len(tile_grid(5, 3, 100, 30)) == 1
    assert len(tile_grid(100, 101, 100, 30)) == 2
    assert len(tile_grid(170, 171, 100, 30)) == 2 * 3
    assert len(tile_grid(200, 300, 100, 0)) == 2 * 3


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"), [(0, 5, 4, 0), (5, 5, 4, 4), (5, 5, 4, -1), (5, 5, 0, 0)]
)
def test_sizes_out_of_bounds_are_refused(height: int, width: int, tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"pixel|overlap"):
        tile_grid(height, width, tile, overlap)


@pytest.mark.parametrize("cell", [1, 4, 7, 50])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 4), (20, 23), (8, 49)])
def test_cells_partition_the_raster_and_are_seen_in_full_size(height: int, width: int, cell: int) -> None:
    owners = np.zeros((height, width), int)
    grid = cell_grid(height, width, cell)
    for tile in grid:
        window, core = tile.window, tile.core
        assert (core.left, core.top) == (tile.column * cell, tile.row * cell)
        assert (window.right - window.left, window.bottom - window.top) == (cell, cell)
        assert 0 <= window.left <= core.left < core.right <= window.right <= max(width, cell)
        assert 0 <= window.top <= core.top < core.bottom <= window.bottom <= max(height, cell)
        owners[core.top : core.bottom, core.left : core.right] += 1
    assert (owners == 1).all()
    assert len(grid) == -(-height // cell) * -(-width // cell)


def test_a_cell_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        cell_grid(5, 5, 0)


AXES = [
    (size, tile, overlap)
    for tile in (1, 2, 3, 8, 9, 16)
    for overlap in sorted({0, 1, tile // 3, tile // 2, tile - 2, tile - 1})
    if 0 <= overlap < tile
    for size in (1, tile - 1, tile, tile + 1, 2 * tile - overlap, 3 * tile - 1, 61)
    if size
]


def axes(size: int, tile: int, overlap: int) -> tuple[Axis, Axis]:
    grid = tile_grid(size, 1, tile, overlap)
    return grid.rows, tile_grid(1, size, tile, overlap).columns


@pytest.mark.parametrize(("size", "tile", "overlap"), AXES)
def test_weights_along_an_axis_sum_to_one_and_no_more_than_two_tiles_share_a_pixel(
    size: int, tile: int, overlap: int
) -> None:
    axis, other = axes(size, tile, overlap)
    assert axis == other
    weights = np.zeros((len(axis.starts), size))
    for index, start in enumerate(axis.starts):
        first, last = axis.reach(index)
        assert start <= first < last <= min(start + tile, size)
        assert first <= axis.cores[index][0]
        assert axis.cores[index][1] <= last
        weights[index, first:last] = 1
        if index > 0:
            low, high = axis.seams[index - 1]
            weights[index, low:high] = axis.ramp(index - 1)
        if index < len(axis.starts) - 1:
            low, high = axis.seams[index]
            weights[index, low:high] *= 1 - axis.ramp(index)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert ((weights > 0).sum(axis=0) <= 2).all()
    # What fades is as good as gone where a tile's pixels end, and whole where the next one's begin.
    assert (weights >= 0).all()
    for row, core in zip(weights, axis.cores, strict=True):
        assert (row[core[0] : core[1]] >= 0.5 - 1e-6).all()


@pytest.mark.parametrize(("size", "tile", "overlap"), AXES)
def test_seams_are_as_wide_as_the_overlap_where_there_is_room(size: int, tile: int, overlap: int) -> None:
    axis, _ = axes(size, tile, overlap)
    ends = [0]
    for start, end in axis.seams:
        assert ends[-1] <= start <= end
        ends.append(end)
    if 2 * overlap <= tile:
        # The last window is shifted inward, so that the cores before it may be narrower.
        assert all(end - start == 2 * (overlap // 2) for start, end in axis.seams[:-2])
        assert all(end - start >= overlap // 2 for start, end in axis.seams)


@pytest.mark.parametrize("size", [1, 31, 63, 64, 65, 100, 127, 128, 129, 300])
def test_aligned_windows_start_on_the_grid_and_hardly_leave_the_raster(size: int) -> None:
    axis = tile_grid(size, 1, 64, 32, align=16).rows
    assert all(start % 16 == 0 for start in axis.starts)
    assert axis.starts[-1] + 64 - max(size, 64) < 16
    assert [core[0] for core in axis.cores[1:]] == [core[1] for core in axis.cores[:-1]]
    assert axis.cores[-1][1] == size
    assert all(start <= core[0] < core[1] <= start + 64 for start, core in zip(axis.starts, axis.cores, strict=True))


def test_windows_whose_distance_is_off_the_grid_are_not_aligned() -> None:
    assert tile_grid(100, 100, 64, 30, align=16).rows == tile_grid(100, 100, 64, 30).rows
