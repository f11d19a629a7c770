from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import make_card, write_raster

from dynamicvis.geo import Detections, GeoError, Scene, write_quicklook
from dynamicvis.model_card import ModelCard

YELLOW, BLUE, BLACK = (255, 212, 0), (0, 160, 255), (0, 0, 0)


def picture_of(scene_path: Path, boxes: Any = (), labels: Any = (), card: ModelCard | None = None) -> Any:
    """(height, width, 4) of the quicklook."""
    found = Detections(np.array(boxes, float).reshape(-1, 4), np.ones(len(labels)), np.array(labels, int), 1)
    path = scene_path.with_name("look.png")
    with warnings.catch_warnings(action="error"), Scene(scene_path, card or make_card()) as scene:
        write_quicklook(path, found, scene, card or make_card())
    assert sorted(scene_path.parent.iterdir()) == sorted([scene_path, path])
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as source:
        assert source.driver == "PNG"
        return source.read().transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (400, 400, (800, 800)),
        (100, 200, (400, 800)),
        (1, 1, (4, 4)),
        (1500, 90, (1500, 90)),
        (3000, 4096, (1500, 2048)),
    ],
)
def test_size(tmp_path: Path, height: int, width: int, expected: tuple[int, int]) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, height, width), 77, np.uint8), compress="deflate")
    picture = picture_of(path, [[0, 0, width, height]], [0])
    assert picture.shape == (*expected, 4)


def test_pixels_are_those_of_the_scene_and_nodata_is_transparent(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 255, (3, 1100, 30), dtype=np.uint8)
    bands[:, 10:20, 5:9] = 0
    picture = picture_of(write_raster(tmp_path / "a.tif", bands, nodata=0))
    np.testing.assert_array_equal(picture[..., :3].transpose(2, 0, 1), bands)
    np.testing.assert_array_equal(picture[..., 3] == 0, bands.max(axis=0) == 0)


def test_a_large_scene_is_averaged_without_its_nodata(tmp_path: Path) -> None:
    bands = np.zeros((3, 4096, 64), np.uint8)
    bands[:, ::2], bands[:, 1::2] = 100, 200
    bands[:, :1024] = 255
    picture = picture_of(write_raster(tmp_path / "a.tif", bands, nodata=255))
    assert picture.shape == (2048, 32, 4)
    assert (picture[:511, :, 3] == 0).all()
    assert (picture[513:] == (150, 150, 150, 255)).all()


def test_values_are_shown_by_the_range_of_the_card_in_its_colour_order(tmp_path: Path) -> None:
    bands = np.stack([np.full((8, 8), value, np.uint16) for value in (0, 5000, 10000, 20000)])
    card = make_card(
        bands=("nir", "blue", "green", "red"), mean=(1,) * 4, std=(1,) * 4, value_range=(0, 10000), name="s2"
    )
    assert (picture_of(write_raster(tmp_path / "a.tif", bands), card=card) == (255, 255, 128, 255)).all()


def test_a_single_band_is_grey(tmp_path: Path) -> None:
    card = make_card(bands=("pan",), mean=(1,), std=(1,))
    path = write_raster(tmp_path / "a.tif", np.full((1, 8, 8), 99, np.uint8))
    assert (picture_of(path, card=card) == (99, 99, 99, 255)).all()


@pytest.mark.parametrize("ground", [250, 5])
def test_boxes_have_the_colour_of_their_class_and_a_dark_halo(tmp_path: Path, ground: int) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 1200, 1200), ground, np.uint8))
    boxes = [[100, 200, 300, 500], [600, 700, 900, 800]]
    picture = picture_of(path, boxes, [0, 1])[..., :3]
    for (left, top, right, bottom), color in zip(boxes, (YELLOW, BLUE), strict=True):
        middle_row, middle_column = (top + bottom) // 2, (left + right) // 2
        for pixel in (
            picture[middle_row, left],
            picture[middle_row, right - 1],
            picture[top, middle_column],
            picture[bottom - 1, middle_column],
        ):
            assert tuple(pixel) == color
        profile = [tuple(pixel) for pixel in picture[middle_row, left - 2 : left + 7]]
        line = profile.count(color)
        assert 2 <= line <= 4
        assert profile[:2] == [(ground,) * 3, BLACK]
        assert profile[2 : 2 + line + 2] == [color] * line + [BLACK, (ground,) * 3]
        assert (picture[top + 10 : bottom - 10, left + 10 : right - 10] == ground).all()


def test_boxes_are_where_the_objects_are_in_a_decimated_picture(tmp_path: Path) -> None:
    bands = np.full((3, 1000, 4096), 10, np.uint8)
    path = write_raster(tmp_path / "a.tif", bands, compress="deflate")
    picture = picture_of(path, [[3000, 400, 3400, 800]], [0])[..., :3]
    rows, columns = np.nonzero((picture == YELLOW).all(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (1500, 200, 1700, 400)


def test_boxes_at_the_edge_and_smaller_than_a_pixel_stay_visible(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 4096, 4096), 10, np.uint8), compress="deflate")
    boxes = [[4095, 4095, 4096, 4096], [2000, 2000, 2000.4, 2000.4], [0, 0, 1, 1]]
    picture = picture_of(path, boxes, [0, 0, 0])[..., :3]
    rows, columns = np.nonzero((picture == YELLOW).all(axis=2))
    assert {(int(y), int(x)) for y, x in zip(rows, columns, strict=True)} == {(2047, 2047), (1000, 1000), (0, 0)}


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 9, np.uint8))
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), 1)
    with Scene(path, make_card()) as scene, pytest.raises(GeoError, match=r"look\.png cannot be written"):
        write_quicklook(tmp_path / "gone" / "look.png", nothing, scene, make_card())
