from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.projection import areas

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


def test_a_polygon_that_leaves_the_earth_has_no_area() -> None:
    affine = rasterio.Affine(1, 0, 20, 0, -1, 95)
    polygons = np.array([shapely.box(0, 0, 10, 10), shapely.box(0, 10, 10, 20)], dtype=object)
    found = areas(polygons, affine, CRS.from_epsg(4326), "scene.tif")
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(cells(20, 30, 75, 85), rel=1e-9)


MARS = (
    'GEOGCS["GCS_Mars_2000",DATUM["Mars_2000",SPHEROID["Mars_2000_IAU_IAG",3396190,169.8944472236118]],'
    'PRIMEM["Reference_Meridian",0],UNIT["degree",0.0174532925199433]]'
)


def test_areas_on_another_body_are_those_of_its_own_ellipsoid() -> None:
    whole = measure(shapely.box(0, 0, 360, 180), rasterio.Affine(1, 0, -180, 0, -1, 90), MARS)
    e = np.sqrt((2 - 1 / 169.8944472236118) / 169.8944472236118)
    assert whole == pytest.approx(2 * np.pi * 3396190.0**2 * (1 + (1 - e**2) / e * np.arctanh(e)), rel=1e-9)
    moon = "+proj=stere +lat_0=-90 +R=1737400 +units=m"
    cap = shapely.Polygon([(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 2000)])
    found = measure(cap, rasterio.Affine(1e5, 0, 0, 0, -1e5, 0), moon)
    angle = 2 * np.arctan(1e5 / (2 * 1737400))
    assert found == pytest.approx(2 * np.pi * 1737400**2 * (1 - np.cos(angle)), rel=1e-5)


def test_areas_in_a_local_crs_are_those_of_its_plane() -> None:
    local = 'LOCAL_CS["site",UNIT["foot",0.3048],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    found = measure(shapely.box(0, 0, 10, 5), rasterio.Affine(0.3, 0.4, 9, 0.4, -0.3, 0), local)
    assert found == pytest.approx(50 * 0.25 * 0.3048**2)


@pytest.mark.parametrize(("crs", "word"), [("EPSG:4978", "geocentric"), ("EPSG:5773", "no horizontal")])
def test_coordinates_of_no_place_are_refused_by_name(crs: str, word: str) -> None:
    with pytest.raises(GeoError, match=rf"scene\.tif: its CRS .*{word}.*gdal_edit"):
        measure(shapely.box(0, 0, 1, 1), rasterio.Affine(1, 0, 0, 0, -1, 0), crs)


@pytest.mark.parametrize(
    ("crs", "metres", "tolerance"),
    [("EPSG:3857", 10.0, 5e-3), ("EPSG:2225", 0.3048006, 1e-3), ("EPSG:32617+5773", 10.0, 2e-3)],
)
def test_areas_are_on_the_ground_in_any_unit(crs: str, metres: float, tolerance: float) -> None:
    (x,), (y,) = warp("EPSG:4326", "EPSG:32617" if "+" in crs else crs, [-122.0 if "2225" in crs else -81], [40.0])
    expected = (metres * (np.cos(np.radians(40)) if "3857" in crs else 1)) ** 2 * 100
    step = 1.0 if "2225" in crs else 10.0
    affine = rasterio.Affine(step, 0, x, 0, -step, y)
    assert measure(shapely.box(0, 0, 10, 10), affine, crs) == pytest.approx(expected, rel=tolerance)
