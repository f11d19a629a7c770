from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import make_card, write_raster
from numpy.typing import NDArray
from rasterio.warp import calculate_default_transform, reproject, transform

from dynamicvis.geo import Extent, GeoError, Scene, ScenePair

SIZE = 0.5


def affine(columns: float = 0, rows: float = 0, size: float = SIZE) -> Any:
    """Of a raster whose corner lies at a column and a row of the grid of the first scene."""
    return rasterio.Affine(size, 0, 4e5 + columns * SIZE, 0, -size, 3e6 - rows * SIZE)


def ground(left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
    """What any scene shows of a smooth landscape, at pixels of the grid of the first scene."""
    y, x = np.mgrid[top : top + height, left : left + width]
    return np.stack([x + y + 60, 2 * x - y + 90, 100 + 0 * x]).astype(np.uint8)


def open_pair(tmp_path: Path, after: NDArray[Any], align: bool = False, **profile: Any) -> ScenePair:
    write_raster(tmp_path / "before.tif", ground(0, 0, 60, 50), crs="EPSG:32617", transform=affine())
    write_raster(tmp_path / "after.tif", after, **({"crs": "EPSG:32617"} | profile))
    card = make_card(gsd=SIZE)
    return ScenePair(Scene(tmp_path / "before.tif", card), Scene(tmp_path / "after.tif", card), align=align)


@pytest.mark.parametrize(
    ("columns", "rows", "corner", "size"),
    [(0, 0, (0, 0), (60, 50)), (7, -4, (7, 0), (53, 46)), (-9, 11, (0, 11), (51, 39))],
)
def test_the_common_part_of_one_grid(
    tmp_path: Path, columns: int, rows: int, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    with open_pair(tmp_path, ground(columns, rows, 60, 50), transform=affine(columns, rows)) as pair:
        assert (pair.width, pair.height, pair.count, pair.aligned) == (*size, 6, False)
        assert pair.affine == affine(*corner)
        values, valid = pair.read(Extent(0, 0, *size))
        picture, _ = pair.read_resampled(*size[::-1])
    assert valid.all()
    np.testing.assert_array_equal(values, np.concatenate([ground(*corner, *size)] * 2))
    np.testing.assert_array_equal(picture, values)


def test_data_is_what_both_have(tmp_path: Path) -> None:
    after = ground(0, 0, 60, 50)
    after[:, 10:20, 30:40] = 0
    with open_pair(tmp_path, after, transform=affine(), nodata=0) as pair:
        values, valid = pair.read(Extent(-5, 5, 40, 25))
    expected = np.zeros((20, 45), bool)
    expected[:, 5:] = True
    expected[5:15, 35:45] = False
    np.testing.assert_array_equal(valid, expected)
    assert (values[:, ~valid] == np.array([100, 110, 120] * 2)[:, None]).all()


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ({"transform": affine(), "crs": "EPSG:32618"}, "the CRS is EPSG:32617 for the first and EPSG:32618"),
        ({"transform": affine(size=0.6)}, "pixels are 0.5 x 0.5 metre in the first and 0.6 x 0.6 metre in"),
        ({"transform": affine(0.3, 4.25)}, "shifted by 0.30 columns and 0.25 rows"),
        ({"transform": rasterio.Affine(SIZE, 0, 4e5, 0, SIZE, 3e6)}, "their axes differ by a rotation or a flip"),
    ],
)
def test_other_grids_are_refused_with_the_reason(tmp_path: Path, profile: dict[str, Any], reason: str) -> None:
    with pytest.raises(GeoError, match=rf"before\.tif and .*after\.tif .*{reason}.*--align"):
        open_pair(tmp_path, ground(0, 0, 60, 50), **profile)


@pytest.mark.parametrize("align", [False, True])
def test_scenes_that_cannot_be_laid_over_each_other(tmp_path: Path, align: bool) -> None:
    with pytest.raises(GeoError, match="no pixel in common"):
        open_pair(tmp_path, ground(0, 0, 60, 50), align, transform=affine(60, 0))
    with warnings.catch_warnings(action="ignore"):
        with pytest.raises(GeoError, match=r"after\.tif has no CRS.*gdal_edit"):
            open_pair(tmp_path, ground(0, 0, 60, 50), align, crs=None, transform=None)
        small = write_raster(tmp_path / "small.tif", ground(0, 0, 20, 20), crs=None, transform=None)
        large = write_raster(tmp_path / "large.tif", ground(0, 0, 30, 20), crs=None, transform=None)
    with Scene(small) as one, Scene(large) as other, pytest.raises(GeoError, match="no CRS, 20 x 20 and 30 x 20"):
        ScenePair(one, other, align=align)
    with (
        Scene(small, bands=[1]) as one,
        Scene(small) as other,
        pytest.raises(GeoError, match=r"in 1 bands and .* in 3"),
    ):
        ScenePair(one, other)
    with ScenePair(Scene(small), Scene(small), align=align) as pair:
        assert (pair.crs, pair.width, pair.aligned) == (None, 20, False)


def test_aligning_shifts_by_parts_of_a_pixel(tmp_path: Path) -> None:
    left, top = 10, 8
    after = ground(left, top, 30, 20).astype(np.float32)
    path = write_raster(
        tmp_path / "after.tif", after, crs="EPSG:32617", transform=affine(left + 0.25, top + 0.5), nodata=-1
    )
    before = write_raster(tmp_path / "before.tif", ground(0, 0, 60, 50), crs="EPSG:32617", transform=affine())
    with ScenePair(Scene(before), Scene(path), align=True) as pair:
        assert pair.affine == affine(left, top)
        assert (pair.width, pair.height) == (31, 21)
        values, valid = pair.read(Extent(0, 0, 31, 21))
        assert any("resampled" in note for note in pair.notes)
    expected = np.zeros((21, 31), bool)  # a pixel is data where its centre lies in AFTER
    expected[:20, :30] = True
    np.testing.assert_array_equal(valid, expected)
    inner = np.s_[1:19, 1:29]
    y, x = np.mgrid[top : top + 21, left : left + 31]
    for band, truth in zip(values[3:], [x + y + 59.25, 2 * x - y + 90, 100 + 0 * x], strict=True):
        np.testing.assert_allclose(band[inner], truth[inner], atol=1e-3)


def in_another_crs(tmp_path: Path, hole: bool = False) -> Path:
    """The landscape around the first scene, in longitude and latitude."""
    large = ground(-20, -20, 100, 90).astype(np.float32)
    shape = (90, 100)
    target, width, height = calculate_default_transform(
        "EPSG:32617", "EPSG:4326", shape[1], shape[0],
        *rasterio.transform.array_bounds(*shape, affine(-20, -20)),
    )  # fmt: skip
    warped = np.full((3, height, width), np.nan, np.float32)
    reproject(
        large, warped, src_transform=affine(-20, -20), src_crs="EPSG:32617", dst_transform=target, dst_crs="EPSG:4326",
        src_nodata=-1, dst_nodata=np.nan, resampling=rasterio.enums.Resampling.bilinear, tolerance=0,
    )  # fmt: skip
    if hole:
        warped[:, 40:50, 45:60] = np.nan
    return write_raster(tmp_path / "geographic.tif", warped, crs="EPSG:4326", transform=target)


def test_aligning_from_another_crs(tmp_path: Path) -> None:
    before = write_raster(tmp_path / "before.tif", ground(0, 0, 60, 50), crs="EPSG:32617", transform=affine())
    with ScenePair(Scene(before), Scene(in_another_crs(tmp_path)), align=True) as pair:
        assert (pair.width, pair.height) == (60, 50)
        values, valid = pair.read(Extent(0, 0, 60, 50))
        part, part_valid = pair.read(Extent(13, 17, 41, 30))
        picture, picture_valid = pair.read_resampled(25, 30)
    assert valid.all()
    np.testing.assert_allclose(values[3:], values[:3], atol=0.05)
    np.testing.assert_allclose(part, values[:, 17:30, 13:41], rtol=1e-5)
    assert part_valid.all()
    assert picture_valid.all()
    np.testing.assert_allclose(picture[3:], picture[:3], atol=1.6)


def test_aligning_makes_up_no_data(tmp_path: Path) -> None:
    before = write_raster(tmp_path / "before.tif", ground(0, 0, 60, 50), crs="EPSG:32617", transform=affine())
    path = in_another_crs(tmp_path, hole=True)
    with ScenePair(Scene(before), Scene(path), align=True) as pair:
        _, valid = pair.read(Extent(0, 0, 60, 50))
    y, x = np.mgrid[0:50, 0:60] + 0.5
    xs, ys = affine().a * x + affine().c, affine().e * y + affine().f
    longitudes, latitudes = transform("EPSG:32617", "EPSG:4326", xs.ravel().tolist(), ys.ravel().tolist())
    with rasterio.open(path) as source:
        inverse = ~source.transform
    columns = np.floor(inverse.a * np.array(longitudes) + inverse.c).reshape(50, 60)
    rows = np.floor(inverse.e * np.array(latitudes) + inverse.f).reshape(50, 60)
    hole = (rows >= 40) & (rows < 50) & (columns >= 45) & (columns < 60)
    assert hole.sum() > 50
    np.testing.assert_array_equal(~valid, hole)


def test_the_fingerprint_tells_pairs_apart(tmp_path: Path) -> None:
    with open_pair(tmp_path, ground(0, 0, 60, 50), transform=affine()) as pair:
        first = pair.fingerprint()
    with open_pair(tmp_path, ground(1, 0, 60, 50), transform=affine(1)) as pair:
        assert pair.fingerprint() != first


@pytest.mark.parametrize(("first", "second"), [(200.0, -160.0), (-160.0, 200.0), (-179.9999, 180.0001)])
@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_one_meridian_by_two_names_is_one_place(tmp_path: Path, first: float, second: float, shift: float) -> None:
    step = 1e-5
    for name, left in (("before", first), ("after", second + shift * step)):
        place = rasterio.Affine(step, 0, left, 0, -step, 10)
        write_raster(tmp_path / f"{name}.tif", ground(0, 0, 60, 50), crs="EPSG:4326", transform=place)
    scenes = [Scene(tmp_path / f"{name}.tif", make_card(gsd=1.1)) for name in ("before", "after")]
    with ScenePair(*scenes, align=shift > 0) as pair:
        assert pair.aligned == (shift > 0)
        values, valid = pair.read(Extent(0, 0, pair.width, pair.height))
    assert valid[:, 1:59].mean() > 0.95
    # A quarter of a pixel is a quarter of the slope: 1 and 2 a pixel.
    expected = np.array([-0.25, -0.5, 0]) * (shift > 0)
    difference = (values[3:] - values[:3])[:, 5:45, 5:55]
    np.testing.assert_allclose(difference.mean(axis=(1, 2)), expected, atol=0.02)


def test_one_meridian_by_two_names_also_from_another_crs(tmp_path: Path) -> None:
    (x,), (y,) = transform("EPSG:4326", "EPSG:32704", [-160.0], [-10.0])
    place = rasterio.Affine(1e-5, 0, 200, 0, -1e-5, -10)
    write_raster(tmp_path / "before.tif", ground(0, 0, 60, 50), crs="EPSG:4326", transform=place)
    there = rasterio.Affine(1, 0, x, 0, -1, y)
    write_raster(tmp_path / "after.tif", ground(0, 0, 60, 50), crs="EPSG:32704", transform=there)
    scenes = [Scene(tmp_path / f"{name}.tif", make_card(gsd=1.1)) for name in ("before", "after")]
    with ScenePair(*scenes, align=True) as pair:
        assert (pair.width, pair.height) >= (50, 40)
        assert pair.read(Extent(0, 0, pair.width, pair.height))[1].mean() > 0.9
