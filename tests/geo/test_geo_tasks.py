from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from geo_scenes import (
    UTM,
    FakeModel,
    blob_scene,
    change_model,
    class_of,
    classification_model,
    detection_model,
    embedding_model,
    make_card,
    mask_model,
    segmentation_model,
    that_looks,
    write_raster,
)
from numpy.typing import NDArray
from PIL import Image

from dynamicvis.geo import GeoError, Request, Settings, detect_change, embed, estimate, predict
from dynamicvis.tile_model import TileObjects, TileOutputs

TO_PIXEL = ~UTM["transform"]


def regions(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Red in large pieces of three levels with single pixels among them; green of any value."""
    generator = np.random.default_rng(seed)
    levels = generator.choice(np.array([40, 120, 220], np.uint8), (height // 9 + 1, width // 13 + 1))
    red = levels.repeat(9, axis=0).repeat(13, axis=1)[:height, :width].copy()
    strewn = generator.random((height, width)) < 0.02
    red[strewn] = generator.choice(np.array([40, 120, 220], np.uint8), strewn.sum())
    return np.stack([red, generator.integers(1, 255, (height, width), dtype=np.uint8), np.full_like(red, 9)])


def shapes(path: Path) -> list[tuple[Any, str, float]]:
    """Polygon in pixels, class and score of each feature."""
    meta, _, geometry, fields = pyogrio.raw.read(path)
    columns = dict(zip(meta["fields"], fields, strict=True))

    def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points.T
        columns, rows = TO_PIXEL.a * x + TO_PIXEL.b * y + TO_PIXEL.c, TO_PIXEL.d * x + TO_PIXEL.e * y + TO_PIXEL.f
        return np.round(np.stack([columns, rows], axis=1), 3)

    polygons = shapely.transform(shapely.from_wkb(geometry), to_pixels)
    return list(zip(polygons, columns["class"], columns["score"], strict=True))


def expected_regions(classes: NDArray[np.uint8], valid: NDArray[np.bool_]) -> set[tuple[bytes, int]]:
    """Regions of equal class of the whole raster at once, by GDAL."""
    found = rasterio.features.shapes(classes, mask=valid, connectivity=4)
    return {(shapely.to_wkb(shapely.normalize(shapely.geometry.shape(shape))), int(value)) for shape, value in found}


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (40, 0), (200, 0)])
def test_segmentation_gives_the_classes_and_their_regions_stitched(tmp_path: Path, tile: int, overlap: int) -> None:
    bands = regions(130, 150)
    bands[:, 50:70, 60:100] = 0
    path = write_raster(tmp_path / "site.tif", bands, nodata=0)
    model = segmentation_model()
    settings = Settings(tile=tile, overlap=overlap, scores=True)
    result = predict(path, tmp_path / "out", model, settings=settings)
    assert [out.name for out in result.paths] == ["site.tif", "site.gpkg", "site.png", "site-scores.tif"]
    valid = bands.any(axis=0)
    truth = class_of(bands[0]).astype(np.uint8)
    with rasterio.open(tmp_path / "out" / "site.tif") as written:
        classes = written.read(1)
        assert (written.nodata, written.descriptions) == (255, ("class",))
        assert (written.crs, written.transform) == (UTM["crs"], UTM["transform"])
        assert written.colormap(1)[1] == (255, 212, 0, 255)
        assert json.loads(written.tags()["DYNAMICVIS_CLASSES"]) == list(model.card.classes)
        assert written.tags()["DYNAMICVIS_TILING"] == f"tile {tile}, overlap {overlap}"
        assert written.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    np.testing.assert_array_equal(classes, np.where(valid, truth, 255))
    with rasterio.open(tmp_path / "out" / "site-scores.tif") as written:
        scores = written.read()
        assert written.descriptions == model.card.classes
    sure = 0.6 + bands[1] / 255 * 0.38
    np.testing.assert_allclose(scores.max(axis=0)[valid], sure[valid], atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=0)[valid], 1, atol=1e-6)
    assert np.isnan(scores[:, ~valid]).all()
    found = shapes(tmp_path / "out" / "site.gpkg")
    index = {name: number for number, name in enumerate(model.card.classes)}
    got = {(shapely.to_wkb(shapely.normalize(polygon)), index[name]) for polygon, name, _ in found}
    assert got == expected_regions(truth, valid)
    assert len(got) == len(found) == result.count
    assert sum(polygon.area for polygon, *_ in found) == pytest.approx(valid.sum())
    for polygon, _, score in sorted(found, key=lambda item: -item[0].area)[:3]:
        inside = rasterio.features.geometry_mask([polygon], truth.shape, rasterio.Affine.identity(), invert=True)
        assert score == pytest.approx(sure[inside].mean(), abs=0.5 / 255 + 1e-4)


def test_a_background_has_no_polygons(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "site.tif", regions(60, 70))
    result = predict(path, tmp_path / "out", segmentation_model(background=1))
    assert set(result.counts) == {"water", "wood"}
    assert {name for _, name, _ in shapes(tmp_path / "out" / "site.gpkg")} == {"water", "wood"}
    with rasterio.open(tmp_path / "out" / "site.tif") as written:
        assert set(np.unique(written.read(1))) == {0, 1, 2}


def two_dates(tmp_path: Path, **after: Any) -> tuple[Path, Path, NDArray[np.bool_]]:
    """BEFORE, AFTER and where they differ."""
    first = np.full((3, 80, 100), 60, np.uint8)
    second = first.copy()
    second[0, 20:50, 30:75] = 200
    before = write_raster(tmp_path / "before.tif", first)
    return before, write_raster(tmp_path / "after.tif", second, **after), second[0] != first[0]


@pytest.mark.parametrize(("tile", "overlap"), [(32, 8), (64, 32)])
def test_change_is_where_two_dates_differ(tmp_path: Path, tile: int, overlap: int) -> None:
    before, after, changed = two_dates(tmp_path)
    settings = Settings(tile=tile, overlap=overlap, preview=True)
    result = detect_change(before, after, tmp_path / "out", change_model(), settings=settings)
    assert [path.name for path in result.paths] == ["before.tif", "before.gpkg", "before.png", "before.html"]
    assert result.counts == {"changed": 1}
    with rasterio.open(tmp_path / "out" / "before.tif") as written:
        np.testing.assert_array_equal(written.read(1), changed)
    ((polygon, _, score),) = shapes(tmp_path / "out" / "before.gpkg")
    assert shapely.equals(polygon, shapely.box(30, 20, 75, 50))
    assert score == pytest.approx(0.9, abs=0.5 / 255 + 1e-4)


def test_change_between_other_grids_needs_to_be_aligned(tmp_path: Path) -> None:
    shifted = UTM["transform"] @ rasterio.Affine.translation(0.5, 0)
    before, after, changed = two_dates(tmp_path, transform=shifted)
    with pytest.raises(GeoError, match=r"different grids: .*add --align"):
        detect_change(before, after, tmp_path / "out", change_model())
    assert not (tmp_path / "out").exists()
    result = detect_change(before, after, tmp_path / "out", change_model(), align=True)
    assert any("resampled to the grid" in note for note in result.notes)
    with rasterio.open(tmp_path / "out" / "before.tif") as written:
        found = written.read(1)
        assert written.transform == UTM["transform"]
    # Half a pixel to the right: the edge columns may go either way; the column beyond AFTER has no data.
    assert (found[:, -1] != 1).all()
    assert (found[:, 1:30] == 0).all()
    assert (found[20:50, 31:75] == 1).all()
    assert (found[:, 76:-1] == 0).all()
    assert (found[:20, 1:-1] == 0).all()
    assert (found[50:, 1:-1] == 0).all()
    assert changed.any()


def test_change_and_other_models_do_not_take_each_other_s_place(tmp_path: Path) -> None:
    before, after, _ = two_dates(tmp_path)
    with pytest.raises(GeoError, match=r"compares two dates; use `dynamicvis change BEFORE AFTER`"):
        predict(before, tmp_path / "out", change_model())
    with pytest.raises(GeoError, match=r"is for segmentation and not for change"):
        detect_change(before, after, tmp_path / "out", segmentation_model())
    assert not (tmp_path / "out").exists()


def cell_scene(tmp_path: Path) -> tuple[Path, NDArray[np.int64]]:
    """100 x 130 pixels in cells of 32 with one class each, and their classes: -1 for the cell without data."""
    classes = np.array([[0, 1, 2, 0, 1], [2, -1, 1, 1, 0], [1, 0, 0, 2, 2], [0, 0, 1, 2, 1]])
    values = np.array([40, 120, 220, 0], np.uint8)[classes]
    red = values.repeat(32, axis=0).repeat(32, axis=1)[:100, :130]
    return write_raster(tmp_path / "site.tif", np.stack([red] * 3), nodata=0), classes


def test_classification_gives_a_label_to_every_cell(tmp_path: Path) -> None:
    path, classes = cell_scene(tmp_path)
    # Cells at the edge see pixels of their neighbours, so those of the last row and column are not asked for.
    settings = Settings(tile=32, scores=True)
    model = classification_model()
    result = predict(path, tmp_path / "out", model, settings=settings)
    with rasterio.open(tmp_path / "out" / "site.tif") as written:
        found = written.read(1)
        assert written.transform == UTM["transform"] @ rasterio.Affine.scale(32)
        assert written.nodata == 255
        assert written.colormap(1)[0] == (0, 0, 255, 255)
    assert found.shape == (4, 5)
    np.testing.assert_array_equal(found[:3, :4], np.where(classes < 0, 255, classes)[:3, :4])
    assert (found == 255).sum() == 1
    with rasterio.open(tmp_path / "out" / "site-scores.tif") as written:
        scores = written.read()
        assert written.descriptions == model.card.classes
    np.testing.assert_array_equal(np.isnan(scores).all(axis=0), found == 255)
    np.testing.assert_allclose(scores.max(axis=0)[found != 255], 0.9, rtol=1e-6)
    cells = shapes(tmp_path / "out" / "site.gpkg")
    assert len(cells) == result.count == result.tiles == 19
    assert shapely.union_all([polygon for polygon, *_ in cells]).area == 100 * 130 - 32 * 32
    for polygon, name, score in cells:
        left, top, right, bottom = polygon.bounds
        assert (left % 32, top % 32) == (0, 0)
        assert (right, bottom) == (min(left + 32, 130), min(top + 32, 100))
        assert name == model.card.classes[found[int(top) // 32, int(left) // 32]]
        assert score == pytest.approx(0.9, abs=1e-4)


def test_embeddings_are_those_of_the_cells(tmp_path: Path) -> None:
    path, classes = cell_scene(tmp_path)
    result = embed(path, tmp_path / "out", embedding_model(), settings=Settings(tile=32))
    assert [out.name for out in result.paths] == ["site.tif", "site.parquet", "site.png"]
    assert (result.counts, result.tiles) == ({}, 19)
    with rasterio.open(path) as source, rasterio.open(tmp_path / "out" / "site.tif") as written:
        red = source.read(1).astype(float)
        vectors = written.read()
        assert written.transform == UTM["transform"] @ rasterio.Affine.scale(32)
    assert vectors.shape == (4, 4, 5)
    assert np.isnan(vectors[:, 1, 1]).all()
    assert np.isnan(vectors).sum() == 4
    for row, column in np.argwhere(classes >= 0):
        top, left = min(row * 32, 100 - 32), min(column * 32, 130 - 32)
        window = red[top : top + 32, left : left + 32]
        if (window == 0).any():
            continue
        np.testing.assert_allclose(vectors[:, row, column], [window.mean()] * 3 + [window.std()], rtol=1e-5, atol=1e-5)
    table = pyarrow.parquet.read_table(tmp_path / "out" / "site.parquet")
    stored = np.stack(table["embedding"].to_numpy())
    np.testing.assert_array_equal(stored, vectors[:, classes >= 0].T)
    assert table["score"].null_count == 19


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb"])
def test_an_embedding_goes_into_no_format_without_vectors(tmp_path: Path, suffix: str) -> None:
    path, _ = cell_scene(tmp_path)
    model = embedding_model()
    with pytest.raises(GeoError, match=r"cannot hold the vectors of an embedding; choose \.parquet or \.tif"):
        embed(path, tmp_path / f"out{suffix}", model)
    assert model.calls == []


@pytest.mark.parametrize("make", [detection_model, segmentation_model, classification_model])
def test_where_the_model_looked_comes_out_as_percent(tmp_path: Path, make: Any) -> None:
    bands = regions(70, 90)
    bands[:, :10] = 0
    path = write_raster(tmp_path / "site.tif", bands, nodata=0)
    settings = Settings(tile=32, overlap=8, selection=True, preview=True)
    result = predict(path, tmp_path / "out", that_looks(make()), settings=settings)
    assert result.paths[-1].name == "site-selection.tif"
    with rasterio.open(result.paths[-1]) as written:
        looked = written.read()
        assert (written.nodata, written.transform) == (255, UTM["transform"])
    expected = np.where(bands[:1] > 50 * np.arange(1, 5)[:, None, None], 100, 0)
    valid = bands.any(axis=0)
    np.testing.assert_array_equal(looked[:, valid], expected[:, valid])
    assert (looked[:, ~valid] == 255).all()


def test_masks_of_instances_come_out_once_and_whole(tmp_path: Path) -> None:
    image, truth = blob_scene(120, 130, seed=3)
    for left, top, right, bottom, _ in truth:
        image[:, top : top + (bottom - top) // 2, left : left + (right - left) // 2] = 20
    path = write_raster(tmp_path / "site.tif", image)
    settings = Settings(tile=64, overlap=32, formats=("gpkg", "geojson", "fgb", "parquet", "png", "html"))
    result = predict(path, tmp_path / "out", mask_model(), settings=settings)
    assert result.count == len(truth)
    for suffix in (".gpkg", ".fgb"):
        found = shapes(tmp_path / "out" / f"site{suffix}")
        labelled = [(polygon, 1 + (name == "shrub")) for polygon, name, _ in found]
        drawn = rasterio.features.rasterize(labelled, image.shape[1:])
        np.testing.assert_array_equal(drawn, (image[0] > 200) * 1 + (image[1] > 200) * 2)
        assert len(found) == len(truth)


MODELS = {
    "detection": detection_model,
    "instance_segmentation": mask_model,
    "segmentation": segmentation_model,
    "classification": classification_model,
    "embedding": embedding_model,
}


@pytest.mark.parametrize("task", MODELS)
def test_every_task_has_a_picture_and_a_page(tmp_path: Path, task: str) -> None:
    path = write_raster(tmp_path / "site.tif", blob_scene(100, 90, seed=1)[0])
    predict(path, tmp_path, MODELS[task](), name="found", settings=Settings(formats=("png", "html")))
    assert {entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")} == {
        "site.tif",
        "found.png",
        "found.html",
    }
    with Image.open(tmp_path / "found.png") as picture:
        assert max(picture.size) <= 2048
        assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 3
    assert "</html>" in (tmp_path / "found.html").read_text()


@pytest.mark.parametrize("task", MODELS)
def test_the_files_do_not_depend_on_batch_size_and_readers(tmp_path: Path, task: str) -> None:
    path = write_raster(tmp_path / "site.tif", regions(100, 150))
    suffix = {"detection": ".geojson", "instance_segmentation": ".fgb"}.get(task, ".tif")
    written = []
    for batch_size, readers in ((1, 1), (3, 2), (100, 3)):
        out = tmp_path / f"{batch_size}" / f"out{suffix}"
        predict(path, out, MODELS[task](), settings=Settings(tile=32, batch_size=batch_size, readers=readers))
        written.append(out.read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize("task", MODELS)
def test_an_estimate_names_the_files_of_the_run(tmp_path: Path, task: str) -> None:
    path = write_raster(tmp_path / "site.tif", regions(100, 150))
    settings = Settings(tile=32, overlap=8)
    request = Request("predict", str(tmp_path / "out"), MODELS[task](), settings=settings)
    told = estimate(request, [path])
    assert not (tmp_path / "out").exists()
    result = predict(path, tmp_path / "out", MODELS[task](), settings=settings)
    assert told.paths == result.paths
    assert told.rows * told.columns == result.tiles


@pytest.mark.parametrize(
    ("card", "outputs", "message"),
    [
        (make_card(), TileOutputs(), "gave no objects"),
        (
            make_card(),
            TileOutputs(objects=[TileObjects(np.array([[0.0, 0, 5, 5]]), np.array([0.9]), np.array([2]))]),
            "labels outside of the card's 2 classes",
        ),
        (make_card(), TileOutputs(objects=[]), "objects for 0 tiles of 1"),
        (
            make_card(task="instance_segmentation"),
            TileOutputs(objects=[TileObjects(np.array([[0.0, 0, 5, 5]]), np.array([0.9]), np.array([1]))]),
            "objects without masks",
        ),
        (make_card(task="segmentation"), TileOutputs(), "scores of shape none"),
        (make_card(task="segmentation"), TileOutputs({"scores": np.zeros((1, 3, 64, 64), np.float32)}), "scores of sh"),
        (make_card(task="segmentation"), TileOutputs({"scores": np.zeros((1, 2, 9, 9), np.float32)}), "for a tile of"),
        (make_card(task="classification"), TileOutputs(), "vectors of shape none"),
        (make_card(task="classification"), TileOutputs(vectors=np.zeros((1, 3), np.float32)), r"shape \(1, 3\)"),
        (make_card(task="embedding"), TileOutputs(embedding=np.zeros(1, np.float32)), r"shape \(1,\)"),
        (make_card(task="embedding"), TileOutputs(vectors=np.zeros((1, 3), np.float32)), "an embedding of shape none"),
    ],
)
def test_an_answer_that_does_not_fit_the_card_is_refused_and_leaves_nothing(
    tmp_path: Path, card: Any, outputs: TileOutputs, message: str
) -> None:
    path = write_raster(tmp_path / "site.tif", np.full((3, 64, 64), 50, np.uint8))
    with pytest.raises(ValueError, match=message):
        predict(path, tmp_path / "out", FakeModel(card, lambda images: outputs))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [segmentation_model, classification_model, embedding_model])
def test_creation_options_are_tried_before_the_model_is_called(tmp_path: Path, make: Any) -> None:
    path = write_raster(tmp_path / "site.tif", regions(40, 40))
    model = make()
    with pytest.raises(GeoError, match="it was given as COMPRESS=SQUEEZE"):
        predict(path, tmp_path / "out", model, settings=Settings(creation_options={"COMPRESS": "SQUEEZE"}))
    assert model.calls == []
    assert not (tmp_path / "out").exists()
    predict(path, tmp_path / "out", model, settings=Settings(creation_options={"COMPRESS": "ZSTD"}))
    with rasterio.open(tmp_path / "out" / "site.tif") as written:
        assert written.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "ZSTD"
