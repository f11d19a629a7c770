from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image

from dynamicvis.data.raster import DataError, read_raster


def write(path: Path, image: np.ndarray) -> Path:
    height, width, bands = image.shape
    profile = {"count": bands, "dtype": image.dtype, "transform": rasterio.Affine.scale(2, -2)}
    with rasterio.open(path, "w", width=width, height=height, **profile) as file:
        file.write(image.transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("bands", [1, 3, 4, 13])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
def test_reads_what_is_in_the_file(bands: int, kind: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 120, (9, 14, bands)).astype(kind)
    if kind == "int16":
        image -= 60
    path = write(tmp_path / "a.tif", image)
    read = read_raster(path)
    assert read.dtype == image.dtype
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, image)
    if bands > 2:
        np.testing.assert_array_equal(read_raster(str(path), (3, 1)), image[..., [2, 0]])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_colour_images_come_as_red_green_blue(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), np.full((16, 16, 3), (10, 100, 200), np.uint8))
    np.testing.assert_allclose(read_raster(path).mean((0, 1)), (200, 100, 10), atol=2)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_damaged_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no image at all"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=rf"a\{suffix} cannot be read as an image"):
            read_raster(path)


def test_missing_files_and_bands_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tif does not exist"):
        read_raster(tmp_path / "a.tif")
    path = write(tmp_path / "a.tif", np.zeros((4, 4, 4), np.uint16))
    for band in (0, 5):
        with pytest.raises(DataError, match=rf"a\.tif has no band {band}; it has bands 1 to 4"):
            read_raster(path, (1, band))


@pytest.mark.parametrize("tags", [(257,), (256, 257)])
def test_a_header_that_claims_more_than_memory_holds_is_named(tmp_path: Path, tags: tuple[int, ...]) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((40, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    for tag in tags:
        at = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
        content = content[:at] + struct.pack("<I", 0x79000000) + content[at + 4 :]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a.tif claims more pixels than fit in memory"):
        read_raster(path)
