"""Files that are whole are read, files that are cut off never pass for whole ones."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import write_raster
from numpy.typing import NDArray

from dynamicvis.geo import Extent, GeoError, Scene
from dynamicvis.geo.info import describe_scene

_TILES = {"tiled": True, "blockxsize": 16, "blockysize": 16}
_Y, _X = np.mgrid[:96, :112]
_SMOOTH = np.stack([_X + _Y + 1, 2 * _X + 3, (_X * _Y) % 90 + 2]).astype(np.uint8)
_CONSTANT = np.full((1, 512, 512), 3, np.uint8)


def write(path: Path, values: NDArray[Any], driver: str = "GTiff", **options: Any) -> Path:
    count, height, width = values.shape
    options = {"dtype": str(values.dtype), **options}
    with rasterio.open(path, "w", driver=driver, width=width, height=height, count=count, **options) as sink:
        sink.write(values)
    return path


def read(path: Path) -> NDArray[np.float32]:
    with Scene(path) as scene:
        return scene.read(Extent(0, 0, scene.width, scene.height))[0]


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.ones((1, 3000, 1), np.uint8), {}),  # one strip, which GDAL shows as 3000
        (np.ones((3, 3000, 1), np.float32), {"interleave": "band"}),
        (np.ones((1, 8000, 2), np.uint16), {"blockysize": 1}),
        (_CONSTANT, {"compress": "deflate", "blockysize": 512}),
        (_CONSTANT, {"compress": "lzw", "blockysize": 512}),
        (_CONSTANT, {"compress": "zstd", "blockysize": 512}),
        (_CONSTANT, {"compress": "lerc", "blockysize": 512}),
        (_CONSTANT, {"compress": "packbits", "blockysize": 512}),
        (_CONSTANT, {"compress": "webp", "blockysize": 512}),
        (_CONSTANT.astype(np.float64), {"compress": "deflate", "predictor": 3, "blockysize": 512}),
        (_CONSTANT % 2, {"nbits": 1, "compress": "ccittfax4", "blockysize": 512}),
        (_CONSTANT % 2, {"nbits": 1, "compress": "deflate", **_TILES}),
        (_CONSTANT.astype(np.uint16), {"nbits": 12, **_TILES}),
        (_CONSTANT, {"BIGTIFF": "YES", "interleave": "band", **_TILES}),
        (
            np.concatenate([_CONSTANT] * 3),
            {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **_TILES},
        ),
        (np.concatenate([_CONSTANT] * 3), {"SPARSE_OK": "YES", "ENDIANNESS": "BIG", **_TILES}),
    ],
)
def test_whole_files_are_no_damaged_ones(tmp_path: Path, values: NDArray[Any], options: dict[str, Any]) -> None:
    if options.get("compress") == "webp":
        values, options = np.concatenate([values] * 3), {**options, "interleave": "pixel", "WEBP_LOSSLESS": "YES"}
    assert (read(write(tmp_path / "a.tif", values, **options)) == values).all()


def test_blocks_that_were_never_written_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    options = {"width": 5000, "height": 5000, "count": 1, "dtype": "uint8", "nodata": 0, "SPARSE_OK": "YES", **_TILES}
    with rasterio.open(path, "w", driver="GTiff", **options):
        pass
    assert (read(path) == 0).all()
    with rasterio.open(path, "r+") as sink:
        sink.write(np.ones((1, 16, 16), np.uint8), window=((4000, 4016), (160, 176)))
    assert read(path).sum() == 256


@pytest.mark.parametrize(
    ("size", "block"),
    [
        ((1 << 24, 1 << 24), 16384),
        ((1 << 30, 1 << 30), 1 << 20),
        (((1 << 31) - 1, 1), None),
        ((1, (1 << 31) - 1), None),
    ],
)
def test_gigantic_files_of_nothing_are_refused_at_once(
    tmp_path: Path, size: tuple[int, int], block: int | None
) -> None:
    blocks = {"tiled": True, "blockxsize": block, "blockysize": block} if block else {"blockysize": 1}
    options = {"width": size[0], "height": size[1], "count": 1, "dtype": "uint8", "SPARSE_OK": "YES"}
    with rasterio.open(tmp_path / "huge.tif", "w", driver="GTiff", **options, **blocks):
        pass
    before = time.process_time()
    with pytest.raises(GeoError, match=r"huge\.tif"):
        Scene(tmp_path / "huge.tif")
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    ("name", "driver", "options"),
    [
        ("a.tif", "GTiff", {}),
        ("b.tif", "GTiff", {"compress": "deflate", **_TILES}),
        ("c.tif", "GTiff", {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **_TILES}),
        ("d.tif", "GTiff", {"BIGTIFF": "YES", "interleave": "band", "blockysize": 96}),
        ("e.tif", "GTiff", {"SPARSE_OK": "YES", "compress": "zstd"}),
        ("a.dat", "ENVI", {}),
        ("a.bil", "EHdr", {}),
        ("a.ntf", "NITF", {}),
        ("a.bmp", "BMP", {}),
    ],
)
def test_a_file_that_is_cut_off_is_never_read_as_zeros(
    tmp_path: Path, name: str, driver: str, options: dict[str, Any]
) -> None:
    path = write(tmp_path / name, _SMOOTH, driver, **options)
    content, whole = path.read_bytes(), read(path)
    for part in [*range(20), 20 - 20 / len(content)]:
        path.write_bytes(content[: round(len(content) * part / 20)])
        try:
            values = read(path)
        except GeoError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either answer is right
        else:
            np.testing.assert_array_equal(values, whole)


def test_opening_takes_a_time_in_proportion_to_the_number_of_bands(tmp_path: Path) -> None:
    times = {}
    for count in (250, 2000):
        path = write(tmp_path / f"{count}.tif", np.ones((count, 16, 16), np.uint8), interleave="band")
        before = time.process_time()
        with Scene(path) as scene:
            assert scene.count == count
        times[count] = time.process_time() - before
    assert times[2000] < 24 * times[250] + 0.2


def test_statistics_of_thousands_of_bands_look_at_fewer_pixels(tmp_path: Path) -> None:
    options = {"width": 1200, "height": 1000, "count": 200, "dtype": "uint8", "SPARSE_OK": "YES", "tiled": True}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", interleave="band", **options):
        pass
    found = describe_scene(tmp_path / "a.tif")
    assert len(found.bands) == 200
    assert found.sampled < 0.6


def test_a_mask_that_is_cut_off_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, _SMOOTH[:, :40, :50], _X[:40, :50] > 20, compress="deflate", **_TILES)
    with rasterio.open(path, "r+") as sink:
        sink.build_overviews([2, 4])
    content = path.read_bytes()
    with Scene(path) as scene:
        valid = scene.read(Extent(0, 0, 50, 40))[1]
    assert valid.mean() < 1
    directories, place = [], int.from_bytes(content[4:8], "little")
    while place:
        directories.append(place)
        end = place + 2 + 12 * int.from_bytes(content[place : place + 2], "little")
        place = int.from_bytes(content[end : end + 4], "little")
    assert len(directories) > 3
    for end in (place + more for place in directories[1:] for more in (0, 1, 2, 14)):
        path.write_bytes(content[:end])
        with suppress(GeoError), Scene(path) as scene:
            np.testing.assert_array_equal(scene.read(Extent(0, 0, 50, 40))[1], valid)
