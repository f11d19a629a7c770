from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.stitching.polygons import class_polygons, mask_polygons

NODATA = 255


def write(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    height, width = values.shape
    settings: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "nodata": NODATA} | profile
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.open(path, "w", height=height, width=width, **settings) as sink,
    ):
        sink.write(values, 1)
    return path


def key(polygon: Any) -> bytes:
    """Equal for polygons with the same points, wherever their rings begin; a point too many makes it differ."""
    return bytes(shapely.to_wkb(shapely.normalize(polygon)))


def whole(values: NDArray[np.uint8], skip: tuple[int, ...]) -> dict[bytes, int]:
    """Polygons and classes of the whole raster at once, by GDAL."""
    kept = ~np.isin(values, [*skip, NODATA])
    return {key(shapely.geometry.shape(outline)): int(label) for outline, label in shapes(values, kept, connectivity=4)}


def by_chunks(path: Path, **options: Any) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for batch in class_polygons(path, **options):
        assert shapely.is_valid(batch.polygons).all()
        for polygon, label in zip(batch.polygons, batch.labels.tolist(), strict=True):
            assert key(polygon) not in found
            found[key(polygon)] = label
    return found


def spiral(size: int) -> NDArray[np.uint8]:
    """One region that winds inward, and one between its arms."""
    values = np.zeros((size, size), np.uint8)
    row, column, step = 0, 0, (0, 1)
    values[0, 0] = 1
    while True:
        for _ in range(2):
            ahead = row + step[0], column + step[1]
            beyond = row + 2 * step[0], column + 2 * step[1]
            inside = all(0 <= place < size for place in ahead)
            blocked = not inside or (all(0 <= place < size for place in beyond) and values[beyond])
            if not blocked:
                break
            step = (step[1], -step[0])
        else:
            return values
        row, column = ahead
        values[ahead] = 1


def rings(size: int) -> NDArray[np.uint8]:
    """Squares around each other, with borders that lie on those of chunks, beside them and around them."""
    row, column = np.indices((size, size))
    distance = np.maximum(np.abs(row - size // 2), np.abs(column - size // 2))
    return (distance // 3 % 3).astype(np.uint8)


def noise(seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 45, 2)
    few = generator.choice([0, 1, 2, NODATA], size=shape, p=[0.35, 0.4, 0.15, 0.1]).astype(np.uint8)
    return np.kron(few, np.ones(generator.integers(1, 4, 2), np.uint8))


RASTERS: dict[str, NDArray[np.uint8]] = {
    **{f"noise {seed}": noise(seed) for seed in range(12)},
    "checkerboard": (np.indices((20, 23)).sum(axis=0) % 2).astype(np.uint8),
    "spiral": spiral(31),
    "rings": rings(43),
    "one region": np.ones((70, 66), np.uint8),
    "one pixel": np.ones((1, 1), np.uint8),
    "row": np.array([[1, 1, 2, 2, NODATA, 1, 0, 1]], np.uint8),
    "pinched": np.array(
        [[1, 1, 1, 1, 1], [1, 0, 1, 2, 1], [1, 1, 0, 1, 1], [1, 2, 1, 0, 1], [0, 1, 1, 1, 0]], np.uint8
    ),
    "comb": np.where(np.arange(60)[None] % 2 | (np.arange(50)[:, None] == 49), 1, 0).astype(np.uint8),
}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", RASTERS)
def test_chunks_give_the_polygons_of_the_whole_raster(tmp_path: Path, name: str, chunk: int) -> None:
    values = RASTERS[name][:20, :20] if chunk == 1 else RASTERS[name]
    path = write(tmp_path / "classes.tif", values)
    for skip in ((), (0,), (1, 2)):
        assert by_chunks(path, skip=skip, chunk=chunk) == whole(values, skip)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_score_is_the_mean_confidence_of_the_pixels_of_the_region(tmp_path: Path, chunk: int) -> None:
    values = np.concatenate([noise(1)[:20, :20], rings(20)[:9]])
    confidence = np.random.default_rng(0).integers(0, 256, values.shape).astype(np.uint8)
    classes = write(tmp_path / "classes.tif", values)
    count = 0
    for batch in class_polygons(classes, write(tmp_path / "confidence.tif", confidence, nodata=None), chunk=chunk):
        for polygon, score in zip(batch.polygons, batch.scores, strict=True):
            inside = rasterize([polygon], values.shape).astype(bool)
            assert polygon.area == inside.sum()
            assert score == pytest.approx(confidence[inside].mean() / 255, abs=1e-14)
            count += 1
    assert count == len(whole(values, ()))
    assert all(np.isnan(batch.scores).all() for batch in class_polygons(classes, chunk=chunk))


def test_a_mask_in_the_file_is_nodata_too(tmp_path: Path) -> None:
    path = tmp_path / "classes.tif"
    values = np.where(noise(3) == NODATA, 1, noise(3)).astype(np.uint8)
    visible = values != 2
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=1, dtype="uint8", height=values.shape[0], width=values.shape[1]
        ) as sink,
    ):
        sink.write(values, 1)
        sink.write_mask(visible)
    assert by_chunks(path, chunk=7) == whole(np.where(visible, values, NODATA).astype(np.uint8), ())


def test_regions_leave_as_soon_as_they_are_complete_and_memory_does_not_grow(tmp_path: Path) -> None:
    tile = np.kron(noise(5)[:30, :30], np.ones((2, 2), np.uint8))
    list(class_polygons(write(tmp_path / "warm.tif", tile), chunk=64))
    peaks = []
    for rows in (10, 60):
        values = np.zeros((64 * rows, 64), np.uint8)
        values[:, : tile.shape[1]] = np.resize(tile, (64 * rows, tile.shape[1]))
        path = write(tmp_path / f"{rows}.tif", values)
        counts = []
        tracemalloc.start()
        for batch in class_polygons(path, skip={0}, chunk=64):
            counts.append(len(batch))
            del batch
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(counts) == rows
    assert peaks[1] < 1.2 * peaks[0]


def test_rasters_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    classes = write(tmp_path / "classes.tif", noise(1))
    other = write(tmp_path / "other.tif", np.zeros((3, 3), np.uint8))
    with pytest.raises(GeoError, match=r"other\.tif and .*classes\.tif differ in size"):
        list(class_polygons(classes, other))
    with pytest.raises(GeoError, match=r"gone\.tif.*cannot be read"):
        list(class_polygons(tmp_path / "gone.tif"))


def test_masks_become_polygons_along_the_edges_of_their_pixels() -> None:
    masks = np.random.default_rng(0).random((20, 17, 23)) < np.linspace(0, 1, 20)[:, None, None]
    polygons = mask_polygons(masks, (100, 50))
    for mask, polygon in zip(masks, polygons, strict=True):
        assert polygon.is_valid
        assert polygon.area == mask.sum()
        moved = shapely.transform(polygon, lambda points: points - (100, 50))
        expected = rasterize([moved], mask.shape) if mask.any() else np.zeros(mask.shape)
        np.testing.assert_array_equal(expected.astype(bool), mask)
        parts = whole(mask.astype(np.uint8), (0,))
        assert {key(part) for part in shapely.get_parts(moved)} == set(parts) or not mask.any()
    assert polygons[0].is_empty
    assert {polygon.geom_type for polygon in polygons} == {"Polygon", "MultiPolygon"}


def test_no_masks_give_no_polygons() -> None:
    assert mask_polygons(np.zeros((0, 5, 5), bool)).shape == (0,)
