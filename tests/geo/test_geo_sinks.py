from __future__ import annotations

import json
import sqlite3
import struct
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
from geo_scenes import make_card, write_raster
from rasterio.warp import transform as warp

from dynamicvis.geo import Detections, GeoError, Scene, write_geojson, write_geopackage

NORTH_UP = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 4000000)
TURNED = rasterio.Affine(0.4, 0.3, 500000, 0.3, -0.4, 4000000)
BOXES = np.array([[10, 20, 30, 60], [0, 0, 5.5, 7.25]], np.float64)
FOUND = Detections(BOXES, np.array([0.912345, 0.5]), np.array([1, 0]), 1)
NOTHING = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), 1)
CLASSES = ("tree", "shrub")


def scene_at(tmp_path: Path, crs: Any = "EPSG:32617", transform: Any = NORTH_UP) -> Scene:
    bands = np.full((3, 80, 80), 9, np.uint8)
    with warnings.catch_warnings(action="ignore"):
        path = write_raster(tmp_path / "scene.tif", bands, crs=crs, transform=transform)
    return Scene(path, make_card())


def rings(path: Path) -> list[Any]:
    """Points of the outer ring of every polygon, read by GDAL and unpacked by hand."""
    unpacked = []
    for wkb in pyogrio.raw.read(path)[2]:
        order, kind, ring_count, points = struct.unpack_from("<BIII", wkb)
        assert (order, kind, ring_count) == (1, 3, 1)
        unpacked.append(np.frombuffer(wkb, "<f8", offset=13).reshape(points, 2))
    return unpacked


def signed_area(ring: Any) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_geopackage_holds_the_corners_in_the_crs_of_the_scene(tmp_path: Path, transform: Any) -> None:
    path = tmp_path / "out.gpkg"
    with scene_at(tmp_path, transform=transform) as scene:
        write_geopackage(path, FOUND, scene, CLASSES)
    assert pyogrio.read_info(path)["crs"] == "EPSG:32617"
    assert pyogrio.read_info(path)["geometry_type"] == "Polygon"
    for (left, top, right, bottom), ring in zip(BOXES, rings(path), strict=True):
        corners = {transform @ corner for corner in ((left, top), (right, top), (right, bottom), (left, bottom))}
        np.testing.assert_allclose(sorted(map(tuple, ring[:4])), sorted(corners), atol=1e-6)
        assert (ring[4] == ring[0]).all()


def test_attributes(tmp_path: Path) -> None:
    path = tmp_path / "out.gpkg"
    with scene_at(tmp_path) as scene:
        write_geopackage(path, FOUND, scene, CLASSES)
        write_geojson(tmp_path / "out.geojson", FOUND, scene, CLASSES)
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute('SELECT id, class, score, area_m2 FROM "out" ORDER BY fid').fetchall()
        columns = database.execute('PRAGMA table_info("out")').fetchall()
    assert [column[1:3] for column in columns[2:]] == [
        ("id", "INTEGER"),
        ("class", "TEXT"),
        ("score", "REAL"),
        ("area_m2", "REAL"),
    ]
    assert [row[:3] for row in rows] == [(1, "shrub", 0.9123), (2, "tree", 0.5)]
    # On the central meridian of a UTM zone lengths are 0.9996 of those on the ellipsoid.
    assert [row[3] for row in rows] == pytest.approx(np.array([10 * 20, 2.75 * 3.625]) / 0.9996**2, rel=1e-4)
    features = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert [tuple(feature["properties"].values()) for feature in features] == rows


@pytest.mark.parametrize(
    ("crs", "latitude"), [("EPSG:4326", 0.0), ("EPSG:4326", 60.0), ("EPSG:4326", -85.0), ("EPSG:3857", 60.0)]
)
def test_area_is_in_square_metres_on_the_ground(tmp_path: Path, crs: str, latitude: float) -> None:
    step = 0.001
    if crs == "EPSG:4326":
        transform = rasterio.Affine(step, 0, 20, 0, -step, latitude)
    else:
        (x,), (y,) = warp("EPSG:4326", crs, [20], [latitude])
        transform = rasterio.Affine(10, 0, x, 0, -10, y)
    with scene_at(tmp_path, crs, transform) as scene:
        write_geopackage(tmp_path / "out.gpkg", FOUND, scene, CLASSES)
    area = pyogrio.raw.read(tmp_path / "out.gpkg")[3][3][0]
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


@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_geojson_follows_rfc_7946(tmp_path: Path, transform: Any) -> None:
    with scene_at(tmp_path, transform=transform) as scene:
        write_geojson(tmp_path / "out.geojson", FOUND, scene, CLASSES)
        write_geopackage(tmp_path / "out.gpkg", FOUND, scene, CLASSES)
    text = (tmp_path / "out.geojson").read_text()
    document = json.loads(text)
    assert document["type"] == "FeatureCollection"
    assert "crs" not in document
    for feature, ring in zip(document["features"], rings(tmp_path / "out.gpkg"), strict=True):
        (outer,) = feature["geometry"]["coordinates"]
        assert outer[0] == outer[-1]
        assert signed_area(np.array(outer)) > 0
        expected = np.array(warp("EPSG:32617", "EPSG:4326", *ring[:4].T)).T
        np.testing.assert_allclose(sorted(outer[:4]), sorted(expected.tolist()), atol=6e-8)
        assert all(len(str(value).partition(".")[2]) <= 7 for point in outer for value in point)


def test_geojson_is_cut_at_the_antimeridian(tmp_path: Path) -> None:
    transform = rasterio.Affine(0.001, 0, 179.98, 0, -0.001, 10)
    with scene_at(tmp_path, "EPSG:4326", transform) as scene:
        write_geojson(tmp_path / "out.geojson", FOUND, scene, CLASSES)
        write_geopackage(tmp_path / "out.gpkg", FOUND, scene, CLASSES)
    across, before = json.loads((tmp_path / "out.geojson").read_text())["features"]
    assert across["geometry"]["type"] == "MultiPolygon"
    longitudes = sorted({x for (ring,) in across["geometry"]["coordinates"] for x, _ in ring})
    assert longitudes == [-180.0, -179.99, 179.99, 180.0]
    assert before["geometry"]["type"] == "Polygon"
    # 0.02 x 0.04 degrees at latitude 10
    assert across["properties"]["area_m2"] == pytest.approx(2192.7 * 4423.0, rel=2e-3)


@pytest.mark.parametrize("crs", ["EPSG:32617", None])
def test_an_empty_result_has_the_full_schema(tmp_path: Path, crs: str | None) -> None:
    with scene_at(tmp_path, crs, NORTH_UP if crs else None) as scene:
        write_geopackage(tmp_path / "out.gpkg", NOTHING, scene, CLASSES)
        write_geojson(tmp_path / "out.geojson", NOTHING, scene, CLASSES)
    info = pyogrio.read_info(tmp_path / "out.gpkg")
    assert info["features"] == 0
    assert info["fields"].tolist() == ["id", "class", "score", "area_m2"]
    assert info["geometry_type"] == "Polygon"
    document = json.loads((tmp_path / "out.geojson").read_text())
    assert (document["type"], document["features"]) == ("FeatureCollection", [])


def test_without_crs_both_files_hold_pixel_coordinates_and_no_areas(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"), scene_at(tmp_path, None, None) as scene:
        write_geopackage(tmp_path / "out.gpkg", FOUND, scene, CLASSES)
        write_geojson(tmp_path / "out.geojson", FOUND, scene, CLASSES)
    with closing(sqlite3.connect(tmp_path / "out.gpkg")) as database:
        assert database.execute("SELECT srs_id FROM gpkg_geometry_columns").fetchall() == [(-1,)]
        assert database.execute('SELECT area_m2 FROM "out"').fetchall() == [(None,), (None,)]
    features = json.loads((tmp_path / "out.geojson").read_text())["features"]
    for feature, ring, box in zip(features, rings(tmp_path / "out.gpkg"), BOXES, strict=True):
        assert feature["properties"]["area_m2"] is None
        (outer,) = feature["geometry"]["coordinates"]
        for points in (np.array(outer), ring):
            np.testing.assert_array_equal([*points.min(axis=0), *points.max(axis=0)], box)


@pytest.mark.parametrize("write", [write_geojson, write_geopackage])
def test_a_box_off_the_earth_is_an_error(tmp_path: Path, write: Any) -> None:
    # The middle of the scene lies on the globe, its upper end beyond the pole.
    transform = rasterio.Affine(0.1, 0, 20, 0, -0.1, 92)
    with scene_at(tmp_path, "EPSG:4326", transform) as scene, pytest.raises(GeoError, match=r"scene\.tif.*transformed"):
        write(tmp_path / "out", FOUND, scene, CLASSES)


def test_infinite_coordinates_are_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scene_at(tmp_path) as scene:
        monkeypatch.setattr("dynamicvis.geo.projection.transform", lambda *_: ([np.inf] * 8, [0.0] * 8))
        with pytest.raises(GeoError, match=r"scene\.tif.*transformed to EPSG:4326"):
            write_geojson(tmp_path / "out.geojson", FOUND, scene, CLASSES)


@pytest.mark.parametrize(("write", "name"), [(write_geojson, "out.geojson"), (write_geopackage, "out.gpkg")])
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path, write: Any, name: str) -> None:
    with scene_at(tmp_path) as scene, pytest.raises(GeoError, match=rf"{name} cannot be written"):
        write(tmp_path / "gone" / name, FOUND, scene, CLASSES)
