"""What numbers mean: scale and offset, units, NoData of every type, colours."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import make_card
from numpy.typing import NDArray

from dynamicvis.geo import Extent, GeoError, Scene, map_raster
from dynamicvis.geo.info import describe_scene

_PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
_REFLECTANCE = make_card(value_range=(0.0, 10000.0), gsd=10.0)
_TEN_THOUSANDTH = {"scales": (0.0001,) * 3, "offsets": (-0.1,) * 3, "units": ("reflectance",) * 3}


def write(path: Path, values: NDArray[Any], meaning: dict[str, Any] | None = None, **options: Any) -> Path:
    count, height, width = values.shape
    profile = {"width": width, "height": height, "count": count, "dtype": str(values.dtype), **_PLACE, **options}
    with rasterio.open(path, "w", driver="GTiff", **profile) as sink:
        sink.write(values)
        for name, value in (meaning or {}).items():
            setattr(sink, name, value)
    return path


def numbers(count: int = 3, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1000, 6000, (count, 40, 50)).astype(dtype)


def physical(path: Path) -> NDArray[np.float64]:
    with rasterio.open(path) as source:
        scales, offsets = (np.array(given).reshape(-1, 1, 1) for given in (source.scales, source.offsets))
        return source.read().astype(float) * scales + offsets


@pytest.mark.parametrize("out_dtype", ["float32", "uint16"])
def test_a_function_that_keeps_the_bands_keeps_what_their_numbers_stand_for(tmp_path: Path, out_dtype: str) -> None:
    source = write(tmp_path / "a.tif", numbers(), _TEN_THOUSANDTH, nodata=0)
    map_raster(lambda x: x, source, tmp_path / "b.tif", tile=32, overlap=8, out_dtype=out_dtype)
    np.testing.assert_allclose(physical(tmp_path / "b.tif"), physical(source), atol=1e-6)
    with rasterio.open(tmp_path / "b.tif") as result:
        assert result.units == ("reflectance",) * 3


@pytest.mark.parametrize(("keeps", "out_dtype"), [(1, "float32"), (3, "uint8"), (3, "int16")])
def test_other_numbers_stand_for_themselves(tmp_path: Path, keeps: int, out_dtype: str) -> None:
    source = write(tmp_path / "a.tif", numbers(), _TEN_THOUSANDTH)
    map_raster(lambda x: x[:, :keeps] > 3000, source, tmp_path / "b.tif", tile=32, overlap=8, out_dtype=out_dtype)
    with rasterio.open(tmp_path / "b.tif") as result:
        assert (set(result.scales), set(result.offsets), set(result.units)) == ({1.0}, {0.0}, {None})


def test_scale_and_offset_are_told_and_held_against_the_model(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", numbers(), _TEN_THOUSANDTH)
    with Scene(source, _REFLECTANCE) as scene:
        (note,) = [note for note in scene.notes if "a scale and an offset" in note]
    assert "n x 0.0001 - 0.1 reflectance" in note
    assert "expects 0 to 10000" in note
    assert "0 is stored as 1000" in note
    found = describe_scene(source, _REFLECTANCE)
    assert [(band.scale, band.offset, band.unit) for band in found.bands] == [(0.0001, -0.1, "reflectance")] * 3
    assert note in found.notes
    with pytest.raises(GeoError, match="-unscale"):
        Scene(source, make_card(value_range=(0.0, 1.0), gsd=10.0))
    with Scene(write(tmp_path / "plain.tif", numbers()), _REFLECTANCE) as scene:
        assert not [note for note in scene.notes if "a scale and an offset" in note]


def test_values_in_other_units_than_the_models_are_told_by_info(tmp_path: Path) -> None:
    fractions = write(tmp_path / "a.tif", (numbers() / 10000).astype(np.float32))
    assert any("multiply them by 10000" in note for note in describe_scene(fractions, _REFLECTANCE).notes)
    thousands = write(tmp_path / "b.tif", numbers(dtype="float32"))
    unit = make_card(value_range=(0.0, 1.0), gsd=10.0)
    assert any("in other units, convert them" in note for note in describe_scene(thousands, unit).notes)
    assert not any("in other units" in note for note in describe_scene(thousands, _REFLECTANCE).notes)


def test_whole_numbers_that_float32_rounds_are_told_by_info(tmp_path: Path) -> None:
    values = np.full((1, 16, 16), 2**24 + 1, np.uint32)
    assert any("rounded to float32" in note for note in describe_scene(write(tmp_path / "a.tif", values)).notes)
    assert not any("rounded" in note for note in describe_scene(write(tmp_path / "b.tif", values // 2)).notes)


@pytest.mark.parametrize(
    ("dtype", "nodata", "given", "hit"),
    [
        ("uint64", None, float(2**64 - 1), True),
        ("int64", None, float(2**63 - 1), True),
        ("uint32", 2**32 - 1, None, True),
        ("int8", -128, None, True),
        ("float64", -1.7976931348623157e308, None, True),
        ("float32", float("inf"), None, True),
        ("uint8", None, -9999.0, False),
        ("uint8", None, float("inf"), False),
        ("uint8", None, 0.5, False),
    ],
)
def test_nodata_of_any_type_counts_where_a_pixel_can_have_it(
    tmp_path: Path, dtype: str, nodata: float | None, given: float | None, hit: bool
) -> None:
    kind = np.dtype(dtype)
    values = np.full((1, 16, 16), 5, kind)
    values[0, 8] = np.iinfo(kind).max if kind.kind in "iu" else 6
    values[0, :4] = (nodata if given is None else np.iinfo(kind).max) if hit else 0
    if hit and values[0, 8, 0] == values[0, 0, 0]:
        values[0, 8] = np.iinfo(kind).max - 1
    with Scene(write(tmp_path / "a.tif", values, nodata=nodata), nodata=given) as scene:
        valid = scene.read(Extent(0, 0, 16, 16))[1]
        told = any("is no value that band 1" in note for note in scene.notes)
    assert valid[:4].all() == (not hit)
    assert valid[4:].all()
    assert told == (not hit)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int64", 2**63 - 1), ("int64", -(2**63)), ("int64", 2**53 + 1), ("uint64", 2**64 - 1), ("uint64", 2**53 + 1)],
)
def test_nodata_of_64_bits_is_the_very_number(tmp_path: Path, dtype: str, nodata: int) -> None:
    values = np.full((1, 16, 16), 5, dtype)
    values[0, :4] = nodata
    values[0, 5] = nodata - 1 if nodata > 0 else nodata + 1
    path = write(tmp_path / "a.tif", values, nodata=1.1111111111111111e18)
    # rasterio writes NoData as a float: the number takes the place of its text in the file.
    content = path.read_bytes()
    (text,) = set(re.findall(rb"1\.1+e\+18\x00", content))
    path.write_bytes(content.replace(text, str(nodata).encode().ljust(len(text), b"\0")))
    with Scene(path) as scene:
        valid = scene.read(Extent(0, 0, 16, 16))[1]
    assert not valid[:4].any()
    assert valid[4:].all()


@pytest.mark.parametrize("inks", [("cyan", "magenta", "yellow"), ("Y", "Cb", "Cr")])
def test_inks_are_no_red_green_and_blue(tmp_path: Path, inks: tuple[str, ...]) -> None:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><ColorInterp>{name}</ColorInterp></VRTRasterBand>'
        for number, name in enumerate(("YCbCr_" + ink if len(ink) < 3 else ink for ink in inks), start=1)
    )
    place = "<SRS>EPSG:32633</SRS><GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
    path = tmp_path / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="16" rasterYSize="16">{place}{bands}</VRTDataset>')
    with pytest.raises(GeoError, match=f"colours as {', '.join(inks)}"):
        Scene(path, make_card())
    Scene(path, make_card(), bands=[1, 2, 3]).close()
    Scene(path).close()


def test_a_colour_table_under_a_model_of_one_band_is_told(tmp_path: Path) -> None:
    card = make_card()
    card = replace(card, bands=("gray",), mean=card.mean[:1], std=card.std[:1])
    path = write(tmp_path / "a.tif", numbers(1).astype(np.uint8))
    with rasterio.open(path, "r+") as sink:
        sink.write_colormap(1, {1: (255, 0, 0, 255)})
    with Scene(path, card) as scene:
        assert any("colour table" in note for note in scene.notes)
