from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
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
    [("EPSG:4326", (10.0, 200.0)), ("EPSG:32617", (1e9, 1e9)), ('LOCAL_CS["x",UNIT["metre",1]]', (0, 9))],
)
def test_coordinates_off_the_earth_are_an_error(tmp_path: Path, crs: str, corner: tuple[float, float]) -> None:
    transform = rasterio.Affine(0.1, 0, corner[0], 0, -0.1, corner[1])
    path = write_raster(tmp_path / "lost.tif", random_bands(), crs=crs, transform=transform)
    with pytest.raises(GeoError, match=r"lost\.tif: its coordinates cannot be transformed.*gdal_edit"):
        Scene(path, make_card())
