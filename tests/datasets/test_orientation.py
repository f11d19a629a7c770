"""Pictures that their cameras left lying on a side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from tools_helpers import tool

from dynamicvis.data.raster import DataError, decode_raster, read_raster, write_raster
from dynamicvis.mm.loading import LoadMask, LoadRaster

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)
FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 95},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
    "big.tif": {"big_tiff": True},
}


def save(path: Path, orientation: int, pixels: np.ndarray = PIXELS) -> Path:
    """A picture that says how it is to be turned."""
    settings = FORMATS[path.name.partition(".")[2]]
    if path.suffix == ".tif":
        Image.fromarray(pixels).save(path, tiffinfo={274: orientation}, **settings)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(path, exif=exif, **settings)
    return path


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture_is_read_as_viewers_show_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"a.{suffix}", orientation)
    image = read_raster(path)
    np.testing.assert_array_equal(image, seen(path))
    np.testing.assert_array_equal(decode_raster(path.read_bytes(), "a"), image)
    np.testing.assert_array_equal(read_raster(path, [3, 1]), image[..., [2, 0]])
    assert image.flags.c_contiguous


@pytest.mark.parametrize("value", [0, 1, 9, 65535])
def test_what_is_no_orientation_turns_nothing(tmp_path: Path, value: int) -> None:
    for suffix in ("png", "tif"):
        np.testing.assert_array_equal(read_raster(save(tmp_path / f"a.{suffix}", value)), PIXELS)


def test_an_image_with_a_georeference_stays_as_it_is_stored(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", 6)
    with rasterio.open(path, "r+") as file:
        file.transform = rasterio.Affine.scale(2, -2)
    with Image.open(path) as image:
        assert image.getexif()[274] == 6
    np.testing.assert_array_equal(read_raster(path), PIXELS)
    photo = save(tmp_path / "b.jpg", 6)
    photo.with_suffix(".jgw").write_text("2\n0\n0\n-2\n500000\n4000000\n")
    assert read_raster(photo).shape == PIXELS.shape


def test_many_bands_are_turned_too(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 9000, (6, 9, 13)).astype(np.uint16)
    write_raster(tmp_path / "a.tif", image)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    # The directory is written anew at the end, with one more tag in its place by number.
    at = content.index((273).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    entry = (274).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes((8, 0, 0, 0))
    directory = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[directory : directory + 2], "little")
    end = directory + 2 + 12 * count + 4
    entries = content[directory + 2 : end]
    split = at + 12 - directory - 2
    moved = (count + 1).to_bytes(2, "little") + entries[:split] + entry + entries[split:]
    content[4:8] = len(content).to_bytes(4, "little")
    (tmp_path / "b.tif").write_bytes(content + moved)
    np.testing.assert_array_equal(read_raster(tmp_path / "b.tif"), np.rot90(image))


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_turned_photo_that_is_cut_off_is_named(tmp_path: Path, cut: float) -> None:
    path = save(tmp_path / "a.jpg", 6)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(DataError, match=r"a.jpg cannot be read as an image and may be damaged"):
        read_raster(path)


def test_image_and_mask_follow_one_rule_and_must_have_the_size_of_the_annotations(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.jpg", 6), save(tmp_path / "b.png", 6, PIXELS[..., 0] % 2)
    results = LoadRaster()({"img_path": str(image), "height": 40, "width": 24, "seg_map_path": str(mask)})
    assert results["img"].shape == (40, 24, 3)
    labels = LoadMask((0, 1))(results)["gt_seg_map"]
    np.testing.assert_array_equal(labels, seen(mask))
    with pytest.raises(DataError, match=r"a.jpg is shown as 24 x 40 .* are of 40 x 24; .*EXIF orientation"):
        LoadRaster()({"img_path": str(image), "height": 24, "width": 40})
    with pytest.raises(DataError, match=r"annotations are of 24 x 41; .*different versions"):
        LoadRaster()({"img_path": str(image), "height": 41, "width": 24})


def test_preparation_takes_the_size_that_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.jpg", 8)
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 30, 20, 8]}
    coco = {"categories": [{"id": 1, "name": "ship"}], "annotations": [annotation]}
    arguments = ["shards", "--source", str(tmp_path), "--annotations", str(tmp_path / "c.json"), "--overwrite"]
    for (width, height), status in (((24, 40), 0), ((40, 24), 1)):
        coco["images"] = [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}]
        (tmp_path / "c.json").write_text(json.dumps(coco))
        assert tool("prepare_data")([*arguments, "--out", str(tmp_path / "out")]) == status
    assert "a.jpg is 24 x 40 pixels, but 40 x 24" in capsys.readouterr().err
