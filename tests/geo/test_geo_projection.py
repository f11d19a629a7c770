from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.projection import areas

SPHEROID = 0.0818191908426215  # eccentricity of WGS 84
POLAR_CAP = 255032810857000.0  # half of the surface of WGS 84, square metres


def above(latitude: float) -> float:
    """Area of WGS 84 between the equator and a parallel, square metres, in closed form."""
    sine = np.sin(np.radians(latitude))
    part = sine / (2 * (1 - SPHEROID**2 * sine**2)) + np.arctanh(SPHEROID * sine) / (2 * SPHEROID)
    return float(2 * np.pi * 6378137.0**2 * (1 - SPHEROID**2) * part)


def measure(polygon: Any, affine: Any, crs: str) -> float:
    (area,) = areas(np.array([polygon], dtype=object), affine, CRS.from_string(crs), "scene.tif")
    return float(area)


def cells(left: float, right: float, bottom: float, top: float) -> float:
    return (above(top) - above(bottom)) * (right - left) / 360


def test_the_closed_form_gives_the_surface_of_the_earth() -> None:
    assert above(90) == pytest.approx(POLAR_CAP, rel=1e-9)


@pytest.mark.parametrize("left", [20.0, 175.0, -185.0])
def test_large_boxes_of_degrees_also_across_the_antimeridian(left: float) -> None:
    affine = rasterio.Affine(0.1, 0, left, 0, -0.1, 60)
    assert measure(shapely.box(0, 0, 100, 50), affine, "EPSG:4326") == pytest.approx(
        cells(left, left + 10, 55, 60), rel=1e-9
    )


def test_holes_are_taken_off_and_parts_added() -> None:
    affine = rasterio.Affine(0.1, 0, 175, 0, -0.1, 60)
    outer, hole, inner = shapely.box(0, 0, 100, 50), shapely.box(20, 10, 80, 40), shapely.box(40, 20, 60, 30)
    polygon = shapely.union(shapely.difference(outer, hole), inner)
    assert polygon.geom_type == "MultiPolygon"
    expected = cells(0, 10, 55, 60) - cells(0, 6, 56, 59) + cells(0, 2, 57, 58)
    assert measure(polygon, affine, "EPSG:4326") == pytest.approx(expected, rel=1e-9)


def test_many_polygons_at_once_in_order_and_empty_ones() -> None:
    affine = rasterio.Affine(0.1, 0, 20, 0, -0.1, 60)
    polygons = np.array([shapely.box(0, 0, size, size) for size in range(1, 9)] + [shapely.Polygon()], dtype=object)
    expected = [cells(0, size / 10, 60 - size / 10, 60) for size in range(1, 9)] + [0]
    found = areas(polygons, affine, CRS.from_epsg(4326), "scene.tif")
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert areas(polygons[:0], affine, CRS.from_epsg(4326), "scene.tif").shape == (0,)


@pytest.mark.parametrize("crs", ["EPSG:32617", "EPSG:3857", "EPSG:3413"])
def test_a_large_polygon_has_the_area_of_its_parts(crs: str) -> None:
    """In any CRS: the areas of one long, slanted and bitten polygon and of the thousand pieces of it agree."""
    (x,), (y,) = warp("EPSG:4326", crs, [-80.0], [66.0])
    affine = rasterio.Affine(8.0, 6.0, x, 6.0, -8.0, y)
    polygon = shapely.Polygon(
        [(0, 0), (6000, 900), (6100, 4000), (200, 3500)], [[(500, 500), (3000, 900), (900, 3000)]]
    )
    pieces = [
        shapely.intersection(polygon, shapely.box(column, row, column + 100, row + 100))
        for column in range(0, 6200, 100)
        for row in range(0, 4000, 100)
    ]
    array = np.array([piece for piece in pieces if piece.area > 0], dtype=object)
    together = areas(array, affine, CRS.from_string(crs), "scene.tif").sum()
    # The error of the edges is below a ten-thousandth of a pixel, here of 19 000 pixels of edge.
    assert measure(polygon, affine, crs) == pytest.approx(together, rel=1e-8)


@pytest.mark.parametrize(("crs", "sign"), [("EPSG:3413", 1), ("EPSG:3031", -1)])
def test_a_polygon_around_a_pole(crs: str, sign: int) -> None:
    longitudes = np.linspace(-180, 180, 7201)[:-1]
    ring = np.array(warp("EPSG:4326", crs, longitudes.tolist(), [sign * 80.0] * 7200)).T / 1000
    hole = np.array(warp("EPSG:4326", crs, longitudes.tolist(), [sign * 85.0] * 7200)).T / 1000
    affine = rasterio.Affine(1000, 0, 0, 0, 1000, 0)
    assert measure(shapely.Polygon(ring), affine, crs) == pytest.approx(POLAR_CAP - above(80), rel=1e-6)
    assert measure(shapely.Polygon(ring, [hole]), affine, crs) == pytest.approx(above(85) - above(80), rel=1e-6)


def test_the_whole_globe() -> None:
    affine = rasterio.Affine(1, 0, -180, 0, -1, 90)
    assert measure(shapely.box(0, 0, 360, 180), affine, "EPSG:4326") == pytest.approx(2 * POLAR_CAP, rel=1e-8)


def test_points_off_the_earth_are_an_error() -> None:
    with pytest.raises(GeoError, match=r"scene\.tif.*transformed to EPSG:6933"):
        measure(shapely.box(0, 0, 10, 10), rasterio.Affine(1, 0, 20, 0, -1, 95), "EPSG:4326")
