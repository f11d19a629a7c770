from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.vectors import VECTOR_SUFFIXES, Features, Georeference, box_features, write_vectors

NORTH_UP = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 4000000)
TURNED = rasterio.Affine(0.4, 0.3, 500000, 0.3, -0.4, 4000000)
BOXES = np.array([[10, 20, 30, 60], [0, 0, 5.5, 7.25]], np.float64)
FOUND = box_features(BOXES, np.array([0.912345, 0.5]), np.array([1, 0]))
CLASSES = ("tree", "shrub")
FIELDS = ["id", "class", "score", "area_m2"]


def place(crs: str | None = "EPSG:32617", affine: Any = NORTH_UP) -> Georeference:
    return Georeference(None if crs is None else CRS.from_string(crs), affine, "scene.tif")


def read(path: Path) -> tuple[list[tuple[Any, ...]], NDArray[np.object_]]:
    """Attributes and polygons of a file, in the order of their ids; null is None."""
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        rows = [tuple(row[name] for name in FIELDS) for row in table.to_pylist()]
        polygons = shapely.from_wkb(table["geometry"].to_numpy())
    else:
        meta, _, wkb, columns = pyogrio.raw.read(path)
        assert meta["fields"].tolist() == FIELDS
        values = [[None if value != value else value for value in column.tolist()] for column in columns]
        rows = list(zip(*values, strict=True))
        polygons = shapely.from_wkb(wkb)
    order = np.argsort([row[0] for row in rows])
    return [rows[index] for index in order], polygons[order]


def shapes(count: int, seed: int = 0) -> Features:
    """Polygons with holes, and some of two parts."""
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 500, (count, 2))
    outer = shapely.box(*corner.T, *(corner + 9).T)
    polygons = shapely.difference(outer, shapely.box(*(corner + 2).T, *(corner + 5).T))
    polygons[::3] = shapely.union(
        polygons[::3], shapely.transform(outer[::3], lambda points: points + np.array([20, 5]))
    )
    scores = generator.random(count)
    scores[1::5] = np.nan
    return Features(polygons, generator.integers(0, 2, count), scores)


def in_batches(features: Features, size: int) -> Iterator[Features]:
    for start in range(0, len(features), size):
        part = slice(start, start + size)
        columns = {name: values[part] for name, values in features.columns.items()}
        yield Features(features.polygons[part], features.labels[part], features.scores[part], columns)


@pytest.mark.parametrize("affine", [NORTH_UP, TURNED])
@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_every_format_holds_the_corners_counter_clockwise(tmp_path: Path, suffix: str, affine: Any) -> None:
    path = tmp_path / f"out{suffix}"
    assert write_vectors(path, [FOUND], place(affine=affine), CLASSES) == 2
    for (left, top, right, bottom), polygon in zip(BOXES, read(path)[1], strict=True):
        assert polygon.exterior.is_ccw
        corners = np.array([affine @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))])
        if suffix == ".geojson":
            corners = np.array(warp("EPSG:32617", "EPSG:4326", *corners.T)).T
        points = shapely.get_coordinates(polygon)
        np.testing.assert_allclose(sorted(points[:4].tolist()), sorted(corners.tolist()), atol=1e-6)
        assert (points[4] == points[0]).all()


def test_all_formats_hold_the_same(tmp_path: Path) -> None:
    features = shapes(40)
    rows, polygons = {}, {}
    for suffix in VECTOR_SUFFIXES:
        count = write_vectors(tmp_path / f"out{suffix}", in_batches(features, 7), place(), CLASSES, multi=True)
        assert count == 40
        rows[suffix], polygons[suffix] = read(tmp_path / f"out{suffix}")
    expected = [
        (index, CLASSES[label], None if np.isnan(score) else round(score, 4))
        for index, (label, score) in enumerate(zip(features.labels, features.scores, strict=True), start=1)
    ]
    assert [row[:3] for row in rows[".gpkg"]] == expected
    # On the central meridian of a UTM zone lengths are 0.9996 of those on the ellipsoid.
    np.testing.assert_allclose(
        [row[3] for row in rows[".gpkg"]], shapely.area(features.polygons) / 4 / 0.9996**2, rtol=1e-4
    )
    in_map = shapely.transform(features.polygons, lambda points: points * [0.5, -0.5] + [500000, 4000000])
    for suffix in VECTOR_SUFFIXES:
        assert rows[suffix] == rows[".gpkg"]
        assert {polygon.geom_type for polygon in polygons[suffix]} <= {"Polygon", "MultiPolygon"}
        back = polygons[suffix]
        if suffix == ".geojson":
            back = shapely.transform(back, lambda points: np.array(warp("EPSG:4326", "EPSG:32617", *points.T)).T)
        assert shapely.area(shapely.symmetric_difference(back, in_map)).max() < (1 if suffix == ".geojson" else 1e-6)


def test_types_of_the_layers(tmp_path: Path) -> None:
    for suffix in (".gpkg", ".fgb"):
        for multi in (False, True):
            path = tmp_path / f"out{suffix}"
            write_vectors(path, [FOUND], place(), CLASSES, multi=multi)
            info = pyogrio.read_info(path)
            assert info["geometry_type"] == ("MultiPolygon" if multi else "Polygon")
            assert info["crs"] == "EPSG:32617"
    write_vectors(tmp_path / "out.gpkg", [FOUND], place(), CLASSES)
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        columns = database.execute('PRAGMA table_info("out")').fetchall()
    assert [column[1] for column in columns[:2]] == ["fid", "geom"]
    assert [column[1:3] for column in columns[2:]] == [
        ("id", "INTEGER"),
        ("class", "TEXT"),
        ("score", "REAL"),
        ("area_m2", "REAL"),
    ]


def test_several_parts_without_multi_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multi=True"):
        write_vectors(tmp_path / "out.gpkg", [shapes(9)], place(), CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_geoparquet_metadata_and_readers(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    vectors = np.random.default_rng(0).random((40, 5)).astype(np.float32)
    plain = shapes(40)
    features = Features(
        plain.polygons, plain.labels, plain.scores, {"embedding": vectors, "rank": np.arange(40, dtype=np.int32)}
    )
    write_vectors(path, in_batches(features, 7), place(affine=TURNED), CLASSES, multi=True)
    parquet = pyarrow.parquet.ParquetFile(path)
    assert parquet.num_row_groups == 1
    geo = json.loads(parquet.metadata.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["MultiPolygon"]
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32617}
    table = parquet.read()
    polygons = shapely.from_wkb(table["geometry"].to_numpy())
    assert column["bbox"] == shapely.total_bounds(polygons).tolist()
    boxes = table["bbox"].to_pylist()
    names = [path[1] for path in column["covering"]["bbox"].values()]
    np.testing.assert_array_equal([[box[name] for name in names] for box in boxes], shapely.bounds(polygons))
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), vectors)
    assert table["rank"].to_pylist() == list(range(40))
    assert table.schema.field("embedding").type.list_size == 5


def test_vectors_in_another_format_are_refused(tmp_path: Path) -> None:
    features = Features(FOUND.polygons, FOUND.labels, FOUND.scores, {"embedding": np.zeros((2, 3), np.float32)})
    for suffix in (".gpkg", ".geojson", ".fgb"):
        with pytest.raises(
            GeoError, match=rf"^out\{suffix} cannot hold the vectors of column 'embedding'; name it \.parquet"
        ):
            write_vectors(tmp_path / f"out{suffix}", [features], place(), CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("crs", "latitude"), [("EPSG:4326", 0.0), ("EPSG:4326", 60.0), ("EPSG:4326", -85.0), ("EPSG:3857", 60.0)]
)
def test_area_is_in_square_metres_on_the_ground(tmp_path: Path, crs: str, latitude: float) -> None:
    step = 0.001
    affine = rasterio.Affine(step, 0, 20, 0, -step, latitude)
    if crs != "EPSG:4326":
        (x,), (y,) = warp("EPSG:4326", crs, [20], [latitude])
        affine = rasterio.Affine(10, 0, x, 0, -10, y)
    write_vectors(tmp_path / "out.gpkg", [FOUND], place(crs, affine), CLASSES)
    area = read(tmp_path / "out.gpkg")[0][0][3]
    # Lengths of a degree on the WGS 84 ellipsoid in the middle of the first box, after the textbook.
    if crs == "EPSG:4326":
        phi, squared = np.radians(latitude - 40 * step), 0.00669437999014
        curve = np.sqrt(1 - squared * np.sin(phi) ** 2)
        east = np.pi / 180 * 6378137 * np.cos(phi) / curve
        north = np.pi / 180 * 6378137 * (1 - squared) / curve**3
        expected = (20 * step * east) * (40 * step * north)
    else:
        expected = 200 * 400 * np.cos(np.radians(latitude)) ** 2
    assert area == pytest.approx(expected, rel=1e-4 if crs == "EPSG:4326" else 5e-3)


@pytest.mark.parametrize("affine", [NORTH_UP, TURNED])
def test_geojson_follows_rfc_7946(tmp_path: Path, affine: Any) -> None:
    write_vectors(tmp_path / "out.geojson", [shapes(12)], place(affine=affine), CLASSES, multi=True)
    document = json.loads((tmp_path / "out.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    for feature in document["features"]:
        assert list(feature["properties"]) == FIELDS
        for part in feature["geometry"]["coordinates"]:
            for index, ring in enumerate(part):
                assert ring[0] == ring[-1]
                assert shapely.LinearRing(ring).is_ccw == (index == 0)
                assert all(len(str(value).partition(".")[2]) <= 7 for point in ring for value in point)


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    at_180 = place("EPSG:4326", rasterio.Affine(0.001, 0, 179.98, 0, -0.001, 10))
    write_vectors(tmp_path / "out.geojson", [FOUND], at_180, CLASSES)
    across, before = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert across["geometry"]["type"] == "MultiPolygon"
    longitudes = sorted({x for (ring,) in across["geometry"]["coordinates"] for x, _ in ring})
    assert longitudes == [-180.0, -179.99, 179.99, 180.0]
    assert before["geometry"]["type"] == "Polygon"
    # 0.02 x 0.04 degrees at latitude 10
    assert across["properties"]["area_m2"] == pytest.approx(2192.7 * 4423.0, rel=2e-3)


def test_a_polygon_with_a_hole_in_utm_is_cut_at_the_antimeridian_too(tmp_path: Path) -> None:
    (x,), (y,) = warp("EPSG:4326", "EPSG:32660", [180.0], [-17.0])
    ring = shapely.difference(shapely.box(0, 0, 80, 60), shapely.box(20, 20, 60, 40))
    features = Features(np.array([ring]), np.array([0]), np.array([0.5]))
    fiji = place("EPSG:32660", rasterio.Affine(10, 0, x - 400, 0, -10, y))
    for suffix in (".gpkg", ".geojson"):
        write_vectors(tmp_path / f"out{suffix}", [features], fiji, CLASSES)
    ((*_, area),), (polygon,) = read(tmp_path / "out.geojson")
    assert area == read(tmp_path / "out.gpkg")[0][0][3] == pytest.approx(4000 * 100, rel=2e-3)
    left, right = sorted(polygon.geoms, key=lambda part: part.bounds[0])
    assert left.bounds[0] == -180
    assert right.bounds[2] == 180
    assert len(left.interiors) == len(right.interiors) == 0
    assert left.is_valid
    assert right.is_valid


@pytest.mark.parametrize("crs", ["EPSG:32617", None])
@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
@pytest.mark.parametrize("batches", [[], [box_features(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))]])
def test_an_empty_result_has_the_full_schema(tmp_path: Path, suffix: str, crs: str | None, batches: Any) -> None:
    path = tmp_path / f"out{suffix}"
    assert write_vectors(path, batches, place(crs), CLASSES) == 0
    if suffix == ".geojson":
        document = json.loads(path.read_text())
        assert (document["type"], document["features"]) == ("FeatureCollection", [])
    elif suffix == ".parquet":
        parquet = pyarrow.parquet.ParquetFile(path)
        assert parquet.metadata.num_rows == 0
        assert parquet.schema_arrow.names == [*FIELDS, "bbox", "geometry"]
        assert json.loads(parquet.metadata.metadata[b"geo"])["columns"]["geometry"]["geometry_types"] == []
    else:
        info = pyogrio.read_info(path, force_feature_count=True)
        assert info["features"] == 0
        assert info["fields"].tolist() == FIELDS
        assert info["geometry_type"] == "Polygon"


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_without_crs_every_format_holds_pixel_coordinates_and_no_areas(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with warnings.catch_warnings(action="error"):
        write_vectors(path, [FOUND], place(None, rasterio.Affine.identity()), CLASSES)
    rows, polygons = read(path)
    assert [row[3] for row in rows] == [None, None]
    np.testing.assert_array_equal(shapely.bounds(polygons), BOXES)
    if suffix == ".gpkg":
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchall() == [(-1,)]
    if suffix == ".geojson":
        properties = json.loads(path.read_text())["features"][0]["properties"]
        assert properties["area_m2"] is None
    if suffix == ".parquet":
        geo = json.loads(pyarrow.parquet.ParquetFile(path).metadata.metadata[b"geo"])
        assert geo["columns"]["geometry"]["crs"] is None


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_a_box_that_leaves_the_earth_has_no_area_and_is_clipped_in_geojson(tmp_path: Path, suffix: str) -> None:
    # The scene ends beyond the pole, in row 20: one box lies across it, one below and one above.
    path, notes = tmp_path / f"out{suffix}", []
    boxes = box_features(np.array([[10, 15, 30, 60], [0, 25, 5, 27], [0, 0, 5, 7.0]]), np.ones(3), np.zeros(3, int))
    at_pole = place("EPSG:4326", rasterio.Affine(0.1, 0, 20, 0, -0.1, 92))
    count = write_vectors(path, [boxes], at_pole, CLASSES, notes=notes)
    rows, polygons = read(path)
    assert [row[3] is None for row in rows] == ([True, False] if suffix == ".geojson" else [True, False, True])
    assert [row[0] for row in rows] == ([1, 2] if suffix == ".geojson" else [1, 2, 3])
    assert count == len(rows)
    assert "2 of 3 features reach beyond" in notes[0]
    assert shapely.bounds(polygons[0]).tolist() == pytest.approx(
        [21, 86, 23, 90 if suffix == ".geojson" else 90.5], abs=1e-6
    )
    assert len(notes) == (2 if suffix == ".geojson" else 1)


def test_an_error_in_a_batch_comes_through_and_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def batches() -> Iterator[Features]:
        yield FOUND
        raise Interrupted

    for suffix in VECTOR_SUFFIXES:
        with pytest.raises(Interrupted):
            write_vectors(tmp_path / f"out{suffix}", batches(), place(), CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(GeoError, match=rf"out\{suffix} cannot be written"):
        write_vectors(tmp_path / "gone" / f"out{suffix}", [FOUND], place(), CLASSES)


def test_an_unknown_suffix_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(GeoError, match=r"out\.shp has no suffix .*\.gpkg, \.geojson, \.fgb, \.parquet"):
        write_vectors(tmp_path / "out.shp", [FOUND], place(), CLASSES)


FULL_DISK = """
import resource, signal, sys
from test_geo_vectors import CLASSES, GeoError, in_batches, place, shapes, write_vectors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
features = shapes(4000)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_vectors(sys.argv[1], in_batches(features, 500), place(), CLASSES, multi=True)
except GeoError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_a_full_disk_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write_vectors(path, in_batches(shapes(4000), 500), place(), CLASSES, multi=True)
    size = path.stat().st_size
    path.unlink()
    for limit in (1000, size // 2, size - 1):
        command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
        run = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
        )
        assert f"out{suffix} cannot be written" in run.stdout, (limit, run)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_equal_input_gives_equal_bytes(tmp_path: Path, suffix: str) -> None:
    files = []
    for run in range(2):
        path = tmp_path / str(run) / f"out{suffix}"
        path.parent.mkdir()
        write_vectors(path, in_batches(shapes(3000), 500), place(), CLASSES, multi=True)
        files.append(path.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_a_batch_at_a_time_is_in_memory(tmp_path: Path, suffix: str) -> None:
    def batches(count: int) -> Iterator[Features]:
        for index in range(count):
            # Each batch takes some 3 MB, and no two are alive at once.
            yield shapes(2000, seed=index)

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            write_vectors(tmp_path / f"out{suffix}", batches(count), place(), CLASSES, multi=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(10) < 1.3 * peak(2)
