from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from geo_scenes import UTM, make_card, write_raster
from numpy.typing import NDArray

from dynamicvis.geo import ClassLayer, GeoError, ObjectLayer, Scene, ValueLayer, write_quicklook
from dynamicvis.geo.output.vectors import Features, box_features
from dynamicvis.geo.pictures.layers import Layer
from dynamicvis.geo.pictures.legend import Entry, Legend, distance_text, nice_length
from dynamicvis.geo.pictures.rendering import RAMP, rgb
from dynamicvis.model_card import ModelCard

YELLOW, BLUE, BLACK, WHITE = (255, 212, 0), (0, 160, 255), (0, 0, 0), (255, 255, 255)


def features(polygons: Any, labels: Any) -> Features:
    return Features(np.array(polygons, dtype=object), np.array(labels, np.int64), np.ones(len(labels)))


def boxes(corners: Any, labels: Any) -> ObjectLayer:
    corners = np.array(corners, float).reshape(-1, 4)
    return ObjectLayer([box_features(corners, np.ones(len(corners)), np.array(labels, np.int64))])


def picture_of(scene_path: Path, layer: Layer | None = None, card: ModelCard | None = None) -> Any:
    """(height, width, 4) of the quicklook, with its legend."""
    path = scene_path.with_name("look.png")
    with warnings.catch_warnings(action="error"), Scene(scene_path, card or make_card()) as scene:
        write_quicklook(path, scene, card or make_card(), boxes([], []) if layer is None else layer)
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as source:
        assert source.driver == "PNG"
        return source.read().transpose(1, 2, 0)


def colors_in(picture: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(picture[..., :3].reshape(-1, 3), axis=0).tolist()))


@pytest.mark.parametrize(
    ("height", "width", "scene_size"),
    [(400, 400, (800, 800)), (100, 200, (500, 1000)), (1, 1, (1024, 1024)), (1500, 90, (1500, 90)), (1, 900, (1, 900))],
)
def test_a_small_scene_is_enlarged_by_a_whole_number(
    tmp_path: Path, height: int, width: int, scene_size: tuple[int, int]
) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (3, height, width), dtype=np.uint8)
    picture = picture_of(write_raster(tmp_path / "a.tif", bands, compress="deflate"))
    assert max(picture.shape) <= 2048
    rows, columns = scene_size
    scene = picture[:rows, :columns]
    zoom = max(rows // height, 1)
    np.testing.assert_array_equal(scene, scene[::zoom, ::zoom].repeat(zoom, axis=0).repeat(zoom, axis=1))
    # The legend stands below, or beside a tall scene, and is white where nothing is written.
    panel = picture[:, columns:] if picture.shape[1] > columns else picture[rows:]
    assert min(panel.shape[:2]) > 40
    assert tuple(panel[2, 2]) == (*WHITE, 255)
    assert (panel[..., :3] < 100).all(axis=2).sum() > 30, "there is no text"


@pytest.mark.parametrize(("height", "width"), [(3000, 4096), (4096, 3000), (4096, 4096), (65536, 3), (3, 65536)])
def test_a_large_scene_and_its_legend_fit_2048_pixels(tmp_path: Path, height: int, width: int) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, height, width), 7, np.uint8), compress="deflate", tiled=True)
    many = [f"class {index}" for index in range(90)]
    card = make_card(classes=many, colors=["#ffd400"] * 90)
    for layer in (boxes([], []), boxes([[0, 0, 1, 1]] * 90, range(90))):
        picture = picture_of(path, layer, card)
        # Nearly all of the edge is used.
        assert 1900 < max(picture.shape) <= 2048


def test_values_are_stretched_between_percentiles_of_the_valid_pixels(tmp_path: Path) -> None:
    card = make_card(bands=("nir", "blue", "green", "red"), mean=(1,) * 4, std=(1,) * 4, value_range=(0, 10000))
    values = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    bands = np.stack([values * 0 + 9, values, values[::-1] // 2 + 1000, values[:, ::-1]])
    bands[:, :10] = 65535
    picture = picture_of(write_raster(tmp_path / "a.tif", bands, nodata=65535), card=card)[:1000:10, :1000:10]
    assert (picture[:10, :, 3] == 0).all()
    assert (picture[10:, :, 3] == 255).all()
    for channel, band in zip((0, 1, 2), (3, 2, 1), strict=True):
        valid = bands[band, 10:].astype(float)
        low, high = np.percentile(valid, (2, 98))
        expected = ((valid - low) / (high - low) * 255).clip(0, 255)
        np.testing.assert_allclose(picture[10:, :, channel], expected, atol=1)


def test_nodata_is_transparent_and_does_not_mix_into_its_neighbours(tmp_path: Path) -> None:
    bands = np.full((3, 4096, 512), 254, np.uint8)
    bands[:, 1024:] = [[[0]], [[200]], [[100]]]
    picture = picture_of(write_raster(tmp_path / "a.tif", bands, nodata=254, compress="deflate"))
    rows = np.flatnonzero(picture[:, 0, 3])
    assert abs(rows[0] / len(picture) - 0.25) < 0.01
    assert (picture[: rows[0] - 1, 0, 3] == 0).all()
    assert len(np.unique(picture[rows[0] + 1 :, 0], axis=0)) == 1


def test_a_flat_scene_and_one_without_data_have_a_picture(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 9, np.uint8))
    assert (picture_of(path)[:1024] == (128, 128, 128, 255)).all()
    path = write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 9, np.uint8), nodata=9)
    assert (picture_of(path)[:1024, :, 3] == 0).all()


def test_a_single_band_is_grey(tmp_path: Path) -> None:
    card = make_card(bands=("pan",), mean=(1,), std=(1,))
    path = write_raster(tmp_path / "a.tif", np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    scene = picture_of(path, card=card)[:1024]
    assert (scene[..., :1] == scene[..., :3]).all()
    assert len(np.unique(scene[..., 0])) > 50


@pytest.mark.parametrize("ground", [250, 5])
def test_boxes_have_the_colour_of_their_class_and_a_dark_halo(tmp_path: Path, ground: int) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 1200, 1200), ground, np.uint8))
    corners = [[100, 200, 300, 500], [600, 700, 900, 800]]
    picture = picture_of(path, boxes(corners, [0, 1]))[..., :3]
    for (left, top, right, bottom), color in zip(corners, (YELLOW, BLUE), strict=True):
        middle_row, middle_column = (top + bottom) // 2, (left + right) // 2
        for pixel in (
            picture[middle_row, left],
            picture[middle_row, right - 1],
            picture[top, middle_column],
            picture[bottom - 1, middle_column],
        ):
            assert tuple(pixel) == color
        profile = [tuple(pixel) for pixel in picture[middle_row, left - 2 : left + 4]]
        assert profile == [(128,) * 3, BLACK, color, color, BLACK, (128,) * 3]
        assert (picture[top + 4 : bottom - 4, left + 4 : right - 4] == 128).all()


def test_boxes_are_where_the_objects_are_in_a_decimated_picture(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 1000, 4096), 10, np.uint8), compress="deflate")
    scene = picture_of(path, boxes([[3000, 400, 3400, 800]], [0]))[:500]
    rows, columns = np.nonzero((scene[..., :3] == YELLOW).all(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (1500, 200, 1700, 400)


def test_polygons_follow_their_outline_and_masks_are_filled_but_for_their_holes(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 1200, 1200), 10, np.uint8))
    ring = shapely.Point(600, 600).buffer(400) - shapely.Point(600, 600).buffer(200)
    island = shapely.MultiPolygon([shapely.box(10, 10, 60, 60), shapely.box(1100, 10, 1150, 60)])
    for filled in (False, True):
        picture = picture_of(path, ObjectLayer([features([ring, island], [1, 0])], filled))[:1200]
        rows, columns = np.nonzero((picture[..., :3] == BLUE).all(axis=2))
        points = shapely.points(columns + 0.5, rows + 0.5)
        distance = shapely.distance(points, ring.boundary)
        # A line of two pixels, simplified by less than half of one, and not shifted.
        assert distance.max() < 2.1
        assert len(distance) > 2 * np.pi * 600
        for column in (30, 1120):
            assert (tuple(picture[30, column, :3]) == (128, 128, 128)) is not filled
        assert (tuple(picture[600, 300, :3]) == (128, 128, 128)) is not filled
        assert tuple(picture[600, 600, :3]) == (128, 128, 128)
        assert YELLOW in colors_in(picture[5:65, 1095:1155])


def test_objects_at_the_edge_and_smaller_than_a_pixel_stay_visible(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 4096, 8192), 10, np.uint8), compress="deflate")
    corners = [[8191, 4095, 8192, 4096], [4000, 2000, 4000.4, 2000.4], [0, 0, 1, 1]]
    dots = [*shapely.box(*np.array(corners).T), shapely.Point(6000, 3000).buffer(0.3)]
    scene = picture_of(path, ObjectLayer([features(dots, [0] * 4)]))[:1024, :, :3]
    rows, columns = np.nonzero((scene == YELLOW).all(axis=2))
    dots_found = {(int(y) // 2, int(x) // 2) for y, x in zip(rows, columns, strict=True)}
    assert len(rows) == 16
    assert dots_found == {(511, 1023), (250, 500), (0, 0), (375, 750)}


def test_a_hundred_thousand_objects_stream_by(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 2048, 2048), 10, np.uint8), compress="deflate")

    class Batches:
        def __iter__(self) -> Iterator[Features]:
            generator = np.random.default_rng(0)
            for _ in range(100):
                corner = generator.uniform(0, 2040, (1000, 2))
                yield box_features(
                    np.concatenate([corner, corner + 7], axis=1), np.ones(1000), generator.integers(0, 2, 1000)
                )

    tracemalloc.start()
    picture = picture_of(path, ObjectLayer(Batches()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {YELLOW, BLUE} <= colors_in(picture)
    assert peak < 400 << 20


def write_classes(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    return write_raster(path, values[None].astype(np.uint8), nodata=255, **profile)


def test_classes_are_translucent_areas_of_their_most_frequent_class(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 1024, 8192), 10, np.uint8), compress="deflate")
    classes = np.full((1024, 8192), 255, np.uint8)
    classes[:, :4096] = 1
    classes[::6, :4096] = 2  # never in more than one of the four rows that become one
    classes[:, 2048:4096] = 0
    layer = ClassLayer(write_classes(tmp_path / "classes.tif", classes, compress="deflate", tiled=True), hidden=[0])
    card = make_card(classes=("ground", "tree", "shrub"), colors=("#ff0000", "#ffd400", "#00a0ff"))
    picture = picture_of(path, layer, card).astype(int)
    rows = 256
    expected = 128 + (np.array(YELLOW) - 128) * 140 / 255
    assert np.abs(picture[2 : rows - 2, 2:510, :3] - expected).max() <= 2
    assert (picture[:rows, 514:1022, :3] == 128).all(), "a hidden class is drawn"
    assert (picture[:rows, 1026:, :3] == 128).all(), "NoData is drawn"
    shown = colors_in(picture[rows:])
    assert YELLOW in shown
    assert (255, 0, 0) not in shown


def test_cells_of_a_scene_classifier_cover_their_part_of_the_scene(tmp_path: Path) -> None:
    """A scene of 2.5 x 1.5 cells: the last cells are cut at its edge."""
    path = write_raster(tmp_path / "a.tif", np.full((3, 96, 160), 10, np.uint8))
    cells = np.array([[0, 1, 0], [1, 0, 1]])
    layer = ClassLayer(write_classes(tmp_path / "cells.tif", cells), cell=64)
    picture = picture_of(path, layer)[: 96 * 6].astype(int)
    is_blue = picture[..., 2] > picture[..., 0]
    expected = cells.repeat(64 * 6, axis=0).repeat(64 * 6, axis=1)[: 96 * 6, : 160 * 6] == 1
    assert (is_blue != expected).mean() < 0.02


@pytest.mark.parametrize("highest", [1.0, 100.0])
def test_the_mean_of_a_selection_is_a_ramp_from_dark_to_bright(tmp_path: Path, highest: float) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 64, 64), 10, np.uint8))
    selection = np.zeros((2, 2, 2), np.float32)
    selection[:, 0, 1] = 1
    selection[:, 1, 0] = (0, 1)
    selection[:, 1, 1] = np.nan
    file = write_raster(tmp_path / "selection.tif", selection * np.float32(highest), nodata=np.nan)
    picture = picture_of(path, ValueLayer(file, "selection", cell=32, highest=highest))
    scene = picture[:1024, :, :3].astype(int)
    for (row, column), color in {(100, 100): RAMP[0], (100, 900): RAMP[-1]}.items():
        expected = 128 + (np.array(rgb(color)) - 128) * 190 / 255
        np.testing.assert_allclose(scene[row, column], expected, atol=2)
    assert scene[100, 100].sum() < scene[900, 100].sum() < scene[100, 900].sum()
    assert (scene[900, 900] == 128).all()
    assert {rgb(RAMP[0]), rgb(RAMP[-1])} <= colors_in(picture[1024:])


def test_an_embedding_is_shown_by_its_principal_components(tmp_path: Path) -> None:
    """Vectors of two kinds of cells have two colours, wherever in the 40 bands they differ."""
    path = write_raster(tmp_path / "a.tif", np.full((3, 640, 640), 10, np.uint8))
    kind = np.random.default_rng(0).integers(0, 2, (10, 10))
    vectors = np.random.default_rng(1).normal(0, 1, (2, 40)).astype(np.float32)[kind].transpose(2, 0, 1)
    file = write_raster(tmp_path / "embedding.tif", np.ascontiguousarray(vectors))
    scene = picture_of(path, ValueLayer(file, "embedding", "components", cell=64))[:640]
    pixels = scene[32::64, 32::64, :3].astype(int)
    assert len(np.unique(pixels[kind == 0], axis=0)) == len(np.unique(pixels[kind == 1], axis=0)) == 1
    assert np.abs(pixels[kind == 0][0] - pixels[kind == 1][0]).max() > 150


def test_the_legend_lists_what_occurs_in_the_colours_of_the_card(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 600, 600), 10, np.uint8))
    legend = colors_in(picture_of(path, boxes([[10, 10, 50, 50]] * 3, [0] * 3))[600:])
    assert YELLOW in legend
    assert BLUE not in legend
    # Where nothing was found, all classes that were looked for.
    assert {YELLOW, BLUE} <= colors_in(picture_of(path)[600:])


@pytest.mark.parametrize("width", [200, 700, 2048])
def test_no_text_leaves_the_legend(width: int) -> None:
    """Whatever is drawn ends before the margin."""
    entries = [Entry("a class with quite a long name " * (1 + index % 3), "12,345", "#ffd400") for index in range(40)]
    panel = Legend("a" * 500 + "\n\t.tif", "summary " * 60, entries, ramp=1.0, metres=0.5).draw(width, width)
    assert panel.shape[1] == width
    assert (panel[:, -5:, :3] == 255).all()
    assert (panel[-2:, :, :3] == 255).all()


def test_a_scene_without_place_has_no_scale() -> None:
    def draw(metres: float | None) -> NDArray[np.uint8]:
        return Legend("a.tif", "trees", metres=metres).draw(900, 900)

    right = np.s_[:, 600:, :3]
    assert (draw(None)[right] == 255).all()
    assert (draw(0.1)[right] < 255).any()


def test_distances_are_round() -> None:
    assert [nice_length(most) for most in (0.5, 1, 4.9, 5, 999, 1000)] == [0.5, 1, 2, 5, 500, 1000]
    assert [distance_text(metres) for metres in (0.2, 1, 500, 2000)] == ["20 cm", "1 m", "500 m", "2 km"]


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((3, 8, 8), 9, np.uint8))
    with Scene(path, make_card()) as scene:
        with pytest.raises(GeoError, match=r"look\.png cannot be written"):
            write_quicklook(tmp_path / "gone" / "look.png", scene, make_card(), boxes([], []))
        (tmp_path / "classes.tif").write_bytes(b"II*\0")
        with pytest.raises(GeoError, match=r"classes\.tif cannot be read"):
            write_quicklook(tmp_path / "look.png", scene, make_card(), ClassLayer(tmp_path / "classes.tif"))
    assert not (tmp_path / "look.png").exists()


def test_scale_follows_the_pixel_size(tmp_path: Path) -> None:
    """The bar of 5 m is 50 pixels of 0.1 m, enlarged like the scene."""
    with rasterio.open(write_raster(tmp_path / "a.tif", np.full((3, 400, 400), 9, np.uint8))) as source:
        assert source.transform == UTM["transform"]
    panel = picture_of(tmp_path / "a.tif")[800:, 400:, :3]
    ink = (panel < 100).all(axis=2)
    assert 98 <= max(ink.sum(axis=1)) <= 104
