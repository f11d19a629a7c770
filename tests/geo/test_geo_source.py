from __future__ import annotations

import json
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.control
import rasterio.rpc
from geo_scenes import UTM, make_card, write_raster
from rasterio.enums import ColorInterp

from dynamicvis.geo import Extent, GeoError, Scene

MEANS = np.array([100, 110, 120], np.float32)[:, None, None]


def random_bands(count: int = 3, height: int = 40, width: int = 50) -> Any:
    return np.random.default_rng(0).integers(1, 200, (count, height, width), dtype=np.uint8)


@pytest.mark.parametrize(
    "profile",
    [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}, {"interleave": "pixel"}],
)
def test_a_window_holds_the_pixels_of_the_raster(tmp_path: Path, profile: dict[str, Any]) -> None:
    bands = random_bands()
    with Scene(write_raster(tmp_path / "a.tif", bands, **profile), make_card()) as scene:
        values, valid = scene.read(Extent(7, 11, 37, 36))
    np.testing.assert_array_equal(values, bands[:, 11:36, 7:37])
    assert values.dtype == np.float32
    assert valid.all()


def test_what_lies_outside_the_raster_is_filled_with_the_means(tmp_path: Path) -> None:
    bands = random_bands(3, 5, 6)
    with Scene(write_raster(tmp_path / "a.tif", bands), make_card()) as scene:
        values, valid = scene.read(Extent(-2, -1, 8, 9))
    inside = np.zeros((10, 10), bool)
    inside[1:6, 2:8] = True
    np.testing.assert_array_equal(valid, inside)
    np.testing.assert_array_equal(values[:, 1:6, 2:8], bands)
    assert (values == MEANS)[:, ~inside].all()


def alpha(tmp_path: Path, bands: Any, hole: Any) -> Path:
    rgba = np.concatenate([bands, np.where(hole, 0, 255).astype(np.uint8)[None]])
    path = write_raster(tmp_path / "alpha.tif", rgba, photometric="RGB", alpha="YES")
    with rasterio.open(path) as source:
        assert source.colorinterp[3] == ColorInterp.alpha
    return path


def nodata(tmp_path: Path, bands: Any, hole: Any) -> Path:
    return write_raster(tmp_path / "nodata.tif", np.where(hole, 0, bands).astype(np.uint8), nodata=0)


def internal_mask(tmp_path: Path, bands: Any, hole: Any) -> Path:
    return write_raster(tmp_path / "mask.tif", bands, mask=~hole)


@pytest.mark.parametrize("make", [alpha, nodata, internal_mask])
def test_every_kind_of_mask_is_honoured(tmp_path: Path, make: Any) -> None:
    bands = random_bands()
    hole = np.zeros(bands.shape[1:], bool)
    hole[3:20, 5:30] = True
    with Scene(make(tmp_path, bands, hole), make_card()) as scene:
        values, valid = scene.read(Extent(0, 0, 50, 40))
        _, small_valid = scene.read_resampled(20, 25)
    np.testing.assert_array_equal(valid, ~hole)
    np.testing.assert_array_equal(values, np.where(hole, MEANS, bands))
    assert not small_valid[3:9, 4:14].any()
    assert small_valid[11:].all()


def test_alpha_and_nodata_both_count(tmp_path: Path) -> None:
    bands = random_bands(4)
    bands[3] = 255
    bands[3, :10] = 0
    bands[:3, 20:30] = 0
    path = write_raster(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES", nodata=0)
    with warnings.catch_warnings(action="error"), Scene(path, make_card()) as scene:
        _, valid = scene.read(Extent(0, 0, 50, 40))
    assert np.flatnonzero(~valid.any(axis=1)).tolist() == [*range(10), *range(20, 30)]
    assert valid.sum() == 20 * 50


def test_bands_beyond_those_of_the_model_do_not_decide_what_is_data(tmp_path: Path) -> None:
    bands = random_bands(4)
    bands[3, :10] = 0  # water is black in near infrared
    bands[:3, 20:30] = 0
    path = write_raster(tmp_path / "a.tif", bands, photometric="RGB", alpha="NO", nodata=0)
    with Scene(path, make_card()) as scene:
        _, valid = scene.read(Extent(0, 0, 50, 40))
    assert np.flatnonzero(~valid.any(axis=1)).tolist() == [*range(20, 30)]


def test_the_nodata_value_in_one_band_alone_is_data(tmp_path: Path) -> None:
    bands = random_bands()
    bands[0, 4, 4] = 0
    with Scene(write_raster(tmp_path / "a.tif", bands, nodata=0), make_card()) as scene:
        values, valid = scene.read(Extent(0, 0, 50, 40))
    assert valid.all()
    assert values[0, 4, 4] == 0


def test_floats_that_are_no_data_in_any_band_are_no_data(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).random((3, 8, 8), np.float32)
    bands[0, 1, 1], bands[1, 2, 2], bands[2, 3, 3] = np.nan, np.inf, -9999
    card = make_card(value_range=(0, 1), mean=(0.4, 0.5, 0.6))
    with Scene(write_raster(tmp_path / "a.tif", bands, nodata=-9999), card) as scene:
        values, valid = scene.read(Extent(0, 0, 8, 8))
    assert sorted(map(tuple, np.argwhere(~valid).tolist())) == [(1, 1), (2, 2), (3, 3)]
    np.testing.assert_allclose(values[:, 2, 2], [0.4, 0.5, 0.6], rtol=1e-6)


def test_bands_beyond_those_of_the_model_are_left_aside(tmp_path: Path) -> None:
    bands = random_bands(5)
    with Scene(write_raster(tmp_path / "a.tif", bands), make_card()) as scene:
        np.testing.assert_array_equal(scene.read(Extent(0, 0, 50, 40))[0], bands[:3])


def test_alpha_is_no_band_of_the_model(tmp_path: Path) -> None:
    path = alpha(tmp_path, random_bands(), np.zeros((40, 50), bool))
    card = make_card(bands=("red", "green", "blue", "nir"), mean=(1, 2, 3, 4), std=(1, 1, 1, 1))
    with pytest.raises(GeoError, match=r"has 3 bands.*needs 4 \(red, green, blue, nir\).*-colorinterp_4 undefined"):
        Scene(path, card)


def test_too_few_bands_names_file_and_bands(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "grey.tif", random_bands(1))
    with pytest.raises(GeoError, match=r"grey\.tif has 1 band, .*needs 3 \(red, green, blue\)"):
        Scene(path, make_card())


def test_a_palette_is_named_as_such(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "palette.tif", random_bands(1), photometric="palette")
    with rasterio.open(path, "r+") as sink:
        sink.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})
    with pytest.raises(GeoError, match=r"-expand rgb"):
        Scene(path, make_card())


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "complex64"])
def test_other_dtypes_than_bytes_are_refused_with_the_way_out(tmp_path: Path, dtype: str) -> None:
    path = write_raster(tmp_path / "deep.tif", random_bands().astype(dtype))
    with pytest.raises(GeoError, match=rf"deep\.tif holds {dtype} values.*0 to 255.*gdal_translate -ot Byte -scale"):
        Scene(path, make_card())


@pytest.mark.parametrize(
    ("dtype", "value_range", "fits"),
    [
        ("uint16", (0, 10000), True),
        ("float32", (0, 10000), True),
        ("uint8", (0, 10000), False),
        ("int16", (0, 65535), False),
        ("float32", (0, 1), True),
        ("uint16", (0, 1), False),
    ],
)
def test_dtype_must_suit_the_value_range(
    tmp_path: Path, dtype: str, value_range: tuple[float, float], fits: bool
) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands().astype(dtype))
    card = make_card(value_range=value_range)
    if fits:
        with Scene(path, card) as scene:
            assert scene.read(Extent(0, 0, 4, 4))[1].all()
    else:
        with pytest.raises(GeoError, match="-ot Float32 -scale"):
            Scene(path, card)


def test_files_that_are_no_raster(tmp_path: Path) -> None:
    (tmp_path / "notes.tif").write_text("not a raster")
    (tmp_path / "empty.tif").touch()
    for name, reason in [("notes.tif", "no raster"), ("empty.tif", "no raster"), ("gone.tif", "does not exist")]:
        with pytest.raises(GeoError, match=rf"{name}.*{reason}"):
            Scene(tmp_path / name, make_card())
    with pytest.raises(GeoError, match="is a folder"):
        Scene(tmp_path, make_card())


@pytest.mark.parametrize("profile", [{}, {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "lzw"}])
def test_a_truncated_file_is_refused_before_it_is_read(tmp_path: Path, profile: dict[str, Any]) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands(3, 200, 200), **profile)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(GeoError, match=r"a\.tif.*truncated"):
        Scene(path, make_card())


def test_a_damaged_block_is_reported_when_read(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands(3, 200, 200), compress="lzw")
    content = path.read_bytes()
    path.write_bytes(content[:60000] + bytes(200) + content[60200:])
    with Scene(path, make_card()) as scene, pytest.raises(GeoError, match=r"a\.tif.*damaged"):
        scene.read(Extent(0, 0, 200, 200))


@pytest.mark.parametrize(
    "profile",
    [
        {"crs": None, "transform": None},
        {"crs": None},
        {"transform": None},
    ],
)
def test_without_crs_or_affine_the_scene_is_in_pixels_and_says_so(tmp_path: Path, profile: dict[str, Any]) -> None:
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "a.tif", random_bands(), **profile)
    with warnings.catch_warnings(action="error"), Scene(path, make_card()) as scene:
        assert scene.crs is None
        assert scene.affine.is_identity
        assert len(scene.notes) == 1
        assert "pixel coordinates" in scene.notes[0]


def degrees(metres: float, latitude: float) -> Any:
    return rasterio.Affine(metres / (111320 * np.cos(np.radians(latitude))), 0, 25.0, 0, -metres / 110574, latitude)


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32617", UTM["transform"], 0.1),
        ("EPSG:4326", degrees(0.3, 0.0), 0.3),
        ("EPSG:4326", degrees(0.3, 60.0), 0.3),
        ("EPSG:2225", rasterio.Affine(1, 0, 6e6, 0, -1, 2e6), 0.3048),  # US survey feet
        ("EPSG:32617", rasterio.Affine(1.6, -1.2, 5e5, 1.2, 1.6, 1e6), 2),
        ("EPSG:3857", rasterio.Affine(10, 0, 0, 0, -10, 8399737.9), 5.0),  # latitude 60: half the nominal size
    ],
)
def test_pixel_size_is_in_metres_for_every_crs(tmp_path: Path, crs: str, transform: Any, metres: float) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands(), crs=crs, transform=transform)
    with Scene(path, make_card(gsd=metres)) as scene:
        assert scene.gsd == pytest.approx(metres, rel=0.01)
        assert scene.notes == []


@pytest.mark.parametrize(("gsd", "notes"), [(0.19, 0), (0.21, 1), (0.051, 0), (0.049, 1)])
def test_a_pixel_size_off_by_more_than_two_is_noted(tmp_path: Path, gsd: float, notes: int) -> None:
    with Scene(write_raster(tmp_path / "a.tif", random_bands()), make_card(gsd=gsd)) as scene:
        assert len(scene.notes) == notes
        assert all("0.1 m" in note and f"{gsd} m" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("crs", "corner"),
    [("EPSG:4326", (10.0, 200.0)), ("EPSG:32617", (1e9, 1e9))],
)
def test_coordinates_off_the_earth_are_an_error(tmp_path: Path, crs: str, corner: tuple[float, float]) -> None:
    transform = rasterio.Affine(0.1, 0, corner[0], 0, -0.1, corner[1])
    path = write_raster(tmp_path / "lost.tif", random_bands(), crs=crs, transform=transform)
    with pytest.raises(GeoError, match=r"lost\.tif: its coordinates cannot be transformed.*gdal_edit"):
        Scene(path, make_card())


@pytest.mark.parametrize("crs", ['LOCAL_CS["x",UNIT["metre",1]]', "EPSG:4978", "EPSG:32617"])
def test_without_a_model_a_scene_may_lie_anywhere(tmp_path: Path, crs: str) -> None:
    corner = 1e9 if crs == "EPSG:32617" else 9.0
    path = write_raster(
        tmp_path / "a.tif", random_bands(), crs=crs, transform=rasterio.Affine(0.1, 0, corner, 0, -0.1, corner)
    )
    with Scene(path) as scene:
        assert scene.gsd == (pytest.approx(0.1) if crs.startswith("LOCAL") else None)
        assert scene.notes == [] or "no place" in scene.notes[0]


def test_bands_by_their_numbers(tmp_path: Path) -> None:
    bands = random_bands(5)
    path = write_raster(tmp_path / "a.tif", bands)
    with Scene(path, make_card(), bands=[5, 1, 1]) as scene:
        np.testing.assert_array_equal(scene.read(Extent(0, 0, 50, 40))[0], bands[[4, 0, 0]])
        assert scene.bands == [5, 1, 1]
    for chosen, reason in [([1, 2, 6], "bands 1 to 5, not 6"), ([0, 1, 2], "not 0"), ([1, 2], "2 bands chosen by -b")]:
        with pytest.raises(GeoError, match=rf"a\.tif.*{reason}"):
            Scene(path, make_card(), bands=chosen)


@pytest.mark.parametrize(
    ("names", "bands"),
    [(("Blue", "green", "RED"), "3,2,1"), (("nir", "red", "green", "blue"), "2,3,4")],
)
def test_another_order_of_the_bands_is_refused_with_the_way_out(
    tmp_path: Path, names: tuple[str, ...], bands: str
) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands(len(names)))
    with rasterio.open(path, "r+") as sink:
        sink.descriptions = names
    with pytest.raises(GeoError, match=rf"a\.tif has the bands.*red, green, blue.*another order.*-b {bands}$"):
        Scene(path, make_card())
    chosen = [int(band) for band in bands.split(",")]
    with Scene(path, make_card(), bands=chosen) as scene:
        assert [str(name).lower() for name in scene.descriptions] == ["red", "green", "blue"]


def test_bands_with_names_in_the_right_order_are_used(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands(4))
    with rasterio.open(path, "r+") as sink:
        sink.descriptions = ("red", "green", "blue", "red")
    with Scene(path, make_card()) as scene:
        assert scene.bands == [1, 2, 3]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "int32"])
def test_without_a_card_any_type_is_read_as_it_is(tmp_path: Path, dtype: str) -> None:
    bands = random_bands().astype(dtype) * 2 - 3 * (np.dtype(dtype).kind != "u")
    path = write_raster(tmp_path / "a.tif", bands)
    with Scene(path) as scene:
        values, valid = scene.read(Extent(-2, 0, 50, 40))
        assert scene.dtypes == (dtype,) * 3
    np.testing.assert_array_equal(values[:, :, 2:], bands.astype(np.float32))
    assert (values[:, :, :2] == 0).all()
    assert valid[:, 2:].all()
    assert not valid[:, :2].any()


def test_complex_values_are_refused_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(GeoError, match=r"a\.tif holds complex64 values"):
        Scene(write_raster(tmp_path / "a.tif", random_bands().astype("complex64")))


@pytest.mark.parametrize(
    ("dtype", "nodata", "single"),
    [
        ("uint8", 0, False),
        ("uint8", 255, False),
        ("uint8", 7, True),
        ("uint16", 65535, False),
        ("int16", -32768, True),
        ("float32", 0, False),
        ("float32", -9999, True),
        ("float32", np.float32(-3.4e38), True),
        ("float32", np.nan, True),
    ],
)
def test_without_a_card_the_value_itself_tells_whether_one_band_is_enough(
    tmp_path: Path, dtype: str, nodata: Any, single: bool
) -> None:
    bands = np.full((2, 4, 6), 50, dtype)
    bands[:, 1] = nodata
    bands[0, 2, 3] = nodata
    with Scene(write_raster(tmp_path / "a.tif", bands, nodata=nodata)) as scene:
        values, valid = scene.read(Extent(0, 0, 6, 4))
        _, small = scene.read_resampled(2, 3)
    expected = np.ones((4, 6), bool)
    expected[1] = False
    expected[2, 3] = not single
    np.testing.assert_array_equal(valid, expected)
    assert (values[:, ~valid] == 0).all()
    assert small.shape == (2, 3)


def test_a_nodata_value_of_the_caller(tmp_path: Path) -> None:
    bands = random_bands()
    bands[:, 4:9] = 200
    bands[0, 20, 20] = 200
    bands[:, 30:33] = 0
    path = write_raster(tmp_path / "a.tif", bands, nodata=0)
    with Scene(path, make_card(), nodata=200) as scene:
        _, valid = scene.read(Extent(0, 0, 50, 40))
        picture, small = scene.read_resampled(20, 25)
        assert scene.nodatavals == (200, 200, 200)
    assert np.flatnonzero(~valid.any(axis=1)).tolist() == [*range(4, 9)]
    assert valid.sum() == 35 * 50
    assert not small[2:4].any()
    assert set(np.unique(picture[:, small])) <= set(np.unique(bands[:, valid]))


def test_mask_of_single_bands_in_a_virtual_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", random_bands(), nodata=None)
    hole = np.zeros((1, 40, 50), np.uint8)
    hole[:, :, 10:] = 255
    write_raster(tmp_path / "m.tif", hole)
    band = (
        '<VRTRasterBand dataType="{dtype}" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        "</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource><MaskBand><VRTRasterBand dataType='Byte'>"
        '<SimpleSource><SourceFilename relativeToVRT="1">m.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></MaskBand></VRTRasterBand>"
    )
    parts = "".join(band.format(band=number, dtype=dtype) for number, dtype in [(1, "Byte"), (2, "Float32")])
    path = tmp_path / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="50" rasterYSize="40">{parts}</VRTDataset>')
    with Scene(path) as scene:
        values, valid = scene.read(Extent(0, 0, 50, 40))
        assert scene.dtypes == ("uint8", "float32")
        assert scene.has_mask
    np.testing.assert_array_equal(valid, hole[0] > 0)
    np.testing.assert_array_equal(values[:, valid], random_bands()[:2][:, valid])


def pixels(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """Map bounds (left, bottom, right, top) of a part of a raster in `UTM`."""
    xs = [UTM["transform"].c + 0.1 * column for column in (left, right)]
    ys = [UTM["transform"].f - 0.1 * row for row in (bottom, top)]
    return xs[0], ys[0], xs[1], ys[1]


@pytest.mark.parametrize(
    ("bounds", "part"),
    [
        ((10, 5, 30, 20), (10, 5, 30, 20)),
        ((10.4, 5.9, 29.2, 19.1), (10, 5, 30, 20)),
        ((-100, -100, 12, 7), (0, 0, 12, 7)),
        ((49.5, 39.5, 90, 90), (49, 39, 50, 40)),
    ],
)
def test_bounds_are_grown_to_whole_pixels_and_clipped(tmp_path: Path, bounds: Any, part: Any) -> None:
    bands = random_bands()
    left, top, right, bottom = part
    with Scene(write_raster(tmp_path / "a.tif", bands), make_card(), bounds=pixels(*bounds)) as scene:
        assert (scene.width, scene.height) == (right - left, bottom - top)
        values, valid = scene.read(Extent(0, 0, scene.width, scene.height))
        outside, beyond = scene.read(Extent(-1, 0, 1, 1))
        picture, _ = scene.read_resampled(scene.height, scene.width)
        assert scene.affine.almost_equals(UTM["transform"] @ rasterio.Affine.translation(left, top), 1e-6)
    np.testing.assert_array_equal(values, bands[:, top:bottom, left:right])
    np.testing.assert_array_equal(picture, values)
    assert valid.all()
    # Pixels of the file beyond the bounds are no data.
    assert beyond.tolist() == [[False, True]]
    assert (outside[:, :, :1] == MEANS).all()


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (pixels(60, 0, 70, 10), "do not meet"),
        (pixels(10, 0, 10, 10), "hold nothing"),
        ((0, 5, 3, 1), "hold nothing"),
        ((0, 0, np.nan, 9), "hold nothing"),
    ],
)
def test_bounds_without_pixels_are_refused(tmp_path: Path, bounds: Any, reason: str) -> None:
    with pytest.raises(GeoError, match=rf"bounds .*{reason}.*a\.tif"):
        Scene(write_raster(tmp_path / "a.tif", random_bands()), make_card(), bounds=bounds)


def test_bounds_of_a_rotated_and_of_a_placeless_raster(tmp_path: Path) -> None:
    rotated = rasterio.Affine(0.8, 0.6, 5e5, 0.6, -0.8, 1e6)
    path = write_raster(tmp_path / "a.tif", random_bands(), transform=rotated)
    corners = [rotated @ (x, y) for x, y in [(20, 10), (24, 10), (20, 14), (24, 14)]]
    xs, ys = zip(*corners, strict=True)
    with Scene(path, bounds=(min(xs), min(ys), max(xs), max(ys))) as scene:
        column, row = ~rotated @ (scene.affine.c, scene.affine.f)
        assert column <= 20 + 1e-6
        assert row <= 10 + 1e-6
        assert column + scene.width >= 24 - 1e-6
        assert row + scene.height >= 14 - 1e-6
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "b.tif", random_bands(), crs=None, transform=None)
    with Scene(path, bounds=(10, 5, 30, 20)) as scene:
        np.testing.assert_array_equal(scene.read(Extent(0, 0, 20, 15))[0], random_bands()[:, 5:20, 10:30])
        assert not scene.georeferenced


def test_positions_by_points_or_cameras_are_refused_with_the_way_out(tmp_path: Path) -> None:
    points = [
        rasterio.control.GroundControlPoint(row, column, column * 1.0, row * 1.0)
        for row, column in [(0, 0), (0, 49), (39, 0)]
    ]
    path = tmp_path / "a.tif"
    with warnings.catch_warnings(action="ignore"):
        write_raster(path, random_bands(), crs=None, transform=None)
        with rasterio.open(path, "r+") as sink:
            sink.gcps = (points, "EPSG:4326")
    with warnings.catch_warnings(action="error"), pytest.raises(GeoError, match=r"a\.tif.*control points.*gdalwarp"):
        Scene(path)
    path = tmp_path / "b.tif"
    rpcs = rasterio.rpc.RPC(
        height_off=0, height_scale=1, lat_off=0, lat_scale=1, line_off=0, line_scale=1, long_off=0, long_scale=1,
        samp_off=0, samp_scale=1, line_num_coeff=[1.0] * 20, line_den_coeff=[1.0] * 20, samp_num_coeff=[1.0] * 20,
        samp_den_coeff=[1.0] * 20, err_bias=None, err_rand=None,
    )  # fmt: skip
    with warnings.catch_warnings(action="ignore"):
        write_raster(path, random_bands(), crs=None, transform=None, rpcs=rpcs)
    with warnings.catch_warnings(action="error"), pytest.raises(GeoError, match=r"b\.tif.*RPC.*gdalwarp -rpc"):
        Scene(path)


def test_what_a_raster_hands_on(tmp_path: Path) -> None:
    classes = np.zeros((1, 9, 9), np.uint8)
    path = write_raster(tmp_path / "classes.tif", classes, nodata=255)
    with rasterio.open(path, "r+") as sink:
        sink.write_colormap(1, {0: (1, 2, 3, 255), 1: (4, 5, 6, 255)})
        sink.descriptions = ("land cover",)
    with Scene(path) as scene:
        assert scene.colormap is not None
        assert scene.colormap[1] == (4, 5, 6, 255)
        assert (scene.descriptions, scene.nodatavals, scene.dtypes) == (("land cover",), (255,), ("uint8",))
        assert not scene.has_mask
    with Scene(internal_mask(tmp_path, random_bands(), np.eye(40, 50, dtype=bool))) as scene:
        assert scene.has_mask
        assert scene.colormap is None


def test_many_threads_read_one_scene(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 200, (3, 256, 256), dtype=np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    windows = [Extent(x, y, x + 70, y + 50) for x in range(0, 180, 13) for y in range(0, 200, 17)] * 3
    with warnings.catch_warnings(action="error"), Scene(path, make_card()) as scene, ThreadPoolExecutor(8) as pool:
        for window, (values, valid) in zip(windows, pool.map(scene.read, windows), strict=True):
            np.testing.assert_array_equal(values, bands[:, window.top : window.bottom, window.left : window.right])
            assert valid.all()
        scene.close()
        with pytest.raises(ValueError, match=r"a\.tif is closed"):
            pool.submit(scene.read, windows[0]).result()


def test_the_fingerprint_follows_the_pixels(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", random_bands())

    def stamp(**options: Any) -> Any:
        with Scene(path, **options) as scene:
            return json.loads(json.dumps(scene.fingerprint()))

    first = stamp()
    assert stamp() == first
    assert stamp(bands=[3, 2, 1]) != first
    assert stamp(nodata=np.nan) != first
    assert stamp(bounds=pixels(0, 0, 20, 20)) != first
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    assert stamp() == first
    os.utime(path, ns=(0, 0))
    assert stamp() != first


def test_wide_strips_are_noted(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 64, "width": 70000, "sparse_ok": True}
    for name, options in [("strips", {}), ("tiles", {"tiled": True})]:
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, **UTM, **options):
            pass
        with Scene(tmp_path / f"{name}.tif") as scene:
            assert [("-co TILED=YES" in note) for note in scene.notes] == [True] * (name == "strips")


@pytest.mark.parametrize("tiled", [False, True])
def test_a_sparse_file_is_whole(tmp_path: Path, tiled: bool) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": 40000, "width": 40000, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, **UTM, tiled=tiled, compress="deflate"):
        pass
    with Scene(path, make_card()) as scene:
        values, valid = scene.read(Extent(39000, 39000, 39100, 39100))
    assert valid.all()
    assert (values == 0).all()


def test_sizes_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    for name, options in [("strips", {}), ("tiles", {"tiled": True}), ("packed", {"compress": "deflate"})]:
        path = write_raster(tmp_path / f"{name}.tif", random_bands(), **options)
        content = bytearray(path.read_bytes())
        width = content.index(struct.pack("<HHI", 256, 3, 1) + struct.pack("<H", 50))  # tag, SHORT, one value, 50
        content[width + 2 : width + 12] = struct.pack("<HII", 4, 1, 1 << 28)
        path.write_bytes(content)
        with pytest.raises(GeoError, match=rf"{name}\.tif"):
            Scene(path)
