from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from geo_scenes import UTM

from dynamicvis.geo.stitching.assembly import write_rows
from dynamicvis.geo.stitching.raster_spec import RasterSpec


@pytest.mark.parametrize(("bands", "edge"), [(3, 512), (256, 64), (2048, 16)])
@pytest.mark.parametrize("given", [False, True])
def test_blocks_of_cells_stay_small_however_many_bands_there_are(
    tmp_path: Path, bands: int, edge: int, given: bool
) -> None:
    spec = RasterSpec("embedding", "vectors", "float32", float("nan"), convert=lambda block: block)
    vectors = np.random.default_rng(0).random((3, 5, bands), np.float32)
    rows = [[(column, vectors[row, column]) for column in range(5) if column != row] for row in range(3)]
    options = {"blocksize": "128"} if given else {}
    path = tmp_path / "cells.tif"
    write_rows(path, spec, rows, UTM, shape=(3, 5), scratch=tmp_path, creation_options=options)
    with rasterio.open(path) as raster:
        assert raster.block_shapes[0] == ((128, 128) if given else (edge, edge))
        expected = vectors.transpose(2, 0, 1).copy()
        expected[:, range(3), range(3)] = np.nan
        np.testing.assert_array_equal(raster.read(), expected)
