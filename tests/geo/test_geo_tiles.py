from __future__ import annotations

import numpy as np
import pytest

from dynamicvis.geo.tiles import tile_grid

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
