from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geo_scenes import make_card, write_raster

from dynamicvis.geo import GeoError
from dynamicvis.geo.info import describe_scene


def test_statistics_are_those_of_the_data(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 250, (3, 60, 80)).astype(np.uint8)
    bands[:, :15] = 0
    path = write_raster(tmp_path / "a.tif", bands, nodata=0)
    found = describe_scene(path, make_card(value_range=(0, 255)))
    assert (found.fits, found.reason, found.sampled, found.nodata_share) == (True, None, 1, 0.25)
    assert (found.width, found.height, found.crs, found.mask) == (80, 60, "EPSG:32617", False)
    assert found.pixel_size == pytest.approx(0.1, rel=1e-2)
    assert found.bounds == pytest.approx((404211.9, 3285136.9, 404219.9, 3285142.9))
    assert (found.tile, found.overlap, found.tiles) == (64, 32, 2)
    data = bands[:, 15:].astype(float)
    for index, band in enumerate(found.bands):
        assert (band.number, band.dtype, band.nodata) == (index + 1, "uint8", 0)
        assert band.model_name == ("red", "green", "blue")[index]
        assert (band.minimum, band.maximum) == (data[index].min(), data[index].max())
        assert band.mean == pytest.approx(data[index].mean())
        assert band.std == pytest.approx(data[index].std())
        assert band.normalized_mean == pytest.approx((data[index].mean() - (100, 110, 120)[index]) / 50)
        assert band.normalized_std == pytest.approx(data[index].std() / 50)
        assert band.out_of_range == 0


def test_a_large_scene_is_sampled_from_end_to_end(tmp_path: Path) -> None:
    bands = np.zeros((1, 2500, 3000), np.uint8)
    bands[0] = np.arange(3000) * 250 // 3000
    found = describe_scene(write_raster(tmp_path / "a.tif", bands, compress="deflate"))
    assert 0.4 < found.sampled < 1
    (band,) = found.bands
    assert (band.minimum, band.maximum) == (0, 249)
    assert band.mean == pytest.approx(bands.mean(), rel=0.02)
    assert (found.model, found.fits, found.tiles) == (None, None, None)


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"dtype": "uint16"}, "holds uint16 values"),
        ({"count": 1}, "has 1 band, .*needs 3"),
        ({"crs": None}, "no place on a map"),
    ],
)
def test_what_does_not_fit_is_described_with_the_reason(tmp_path: Path, profile: dict[str, Any], reason: str) -> None:
    bands = np.ones((profile.get("count", 3), 9, 9), profile.get("dtype", "uint8"))
    path = write_raster(tmp_path / "a.tif", bands, **profile)
    found = describe_scene(path, make_card())
    assert found.fits is False
    assert re.search(reason, str(found.reason))
    assert len(found.bands) == len(bands)


def test_without_any_data_there_are_no_statistics(tmp_path: Path) -> None:
    found = describe_scene(write_raster(tmp_path / "a.tif", np.zeros((3, 9, 9), np.uint8), nodata=0), make_card())
    assert found.nodata_share == 1
    assert {band.mean for band in found.bands} == {None}


def test_what_is_no_raster_is_an_error(tmp_path: Path) -> None:
    for card in (None, make_card()):
        with pytest.raises(GeoError, match=r"gone\.tif does not exist"):
            describe_scene(tmp_path / "gone.tif", card)
