"""When the rasters that the engine writes have a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from geo_scenes import write_raster
from rasterio.enums import MaskFlags

from dynamicvis.geo import map_raster


@pytest.mark.parametrize(
    "hole",
    [
        None,
        (slice(3, 4), slice(4, 5)),
        (slice(1099, 1100), slice(1199, 1200)),
        (slice(0, 1024), slice(0, 1024)),
        (slice(0, 1100), slice(1024, 1200)),
    ],
    ids=["none", "first-window", "last-window", "first-window-empty", "right-windows-empty"],
)
def test_a_mask_is_stored_only_where_it_says_something(hole: tuple[slice, slice] | None, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (1, 1100, 1200)).astype(np.uint8)
    valid = np.ones((1100, 1200), bool)
    if hole is not None:
        valid[hole] = False
    scene = write_raster(tmp_path / "scene.tif", values, None if hole is None else valid)
    out = map_raster(lambda images: images, scene, tmp_path / "out.tif", tile=256, overlap=32, out_dtype="uint8").path
    with rasterio.open(out) as dataset:
        assert np.array_equal(dataset.dataset_mask() > 0, valid)
        assert np.array_equal(dataset.read()[:, valid], values[:, valid])
        flag = MaskFlags.all_valid if hole is None else MaskFlags.per_dataset
        assert dataset.mask_flag_enums[0] == [flag]
