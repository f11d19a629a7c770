from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from geo_scenes import make_card
from rasterio.crs import CRS
from rasterio.warp import transform as warp

from dynamicvis.geo import Settings, map_raster, predict
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.antimeridian import Ring, fold
from dynamicvis.geo.output.vectors import Features, check_georeference, round_areas, write_vectors
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.scene.ground import Ground, decimals_of
from dynamicvis.tile_model import TileOutputs

GEOS = "+proj=geos +lon_0=-75 +h=35786023 +ellps=GRS80 +units=m +sweep=x +no_defs"
HALF = 5434894.885  # half of the width of its full disk, metres


def drawn_area(polygon: Any) -> float:
    """Of a polygon in degrees whose edges are straight there, on WGS 84: strips from the first point."""
    squared, total = 0.0818191908426215**2, 0.0
    nodes, weights = np.polynomial.legendre.leggauss(8)

    def zone(base: Any, latitudes: Any) -> Any:
        half = (latitudes - base) / 2
        rise = 2 * np.cos(base + half) * np.sin(half)
        steps = [np.sin(base) + rise * (node + 1) / 2 for node in nodes]
        return rise * sum(
            weight / 2 / (1 - squared * sine**2) ** 2 for sine, weight in zip(steps, weights, strict=True)
        )

    for part in shapely.get_parts(polygon):
        for number, ring in enumerate([part.exterior, *part.interiors]):
            longitudes, latitudes = np.radians(shapely.get_coordinates(shapely.segmentize(ring, 0.5))).T
            a, b = latitudes[:-1], latitudes[1:]
            heights = [zone(latitudes[0], a + (b - a) * share) for share in (0, 0.5, 1)]
            mean = (heights[0] + 4 * heights[1] + heights[2]) / 6
            total += (1 if number == 0 else -1) * abs(float((np.diff(longitudes) * mean).sum()))
    return total * 6378137.0**2 * (1 - squared)


def lonlat(polygon: Any, crs: str, affine: Any, shape: tuple[int, int]) -> tuple[Any, float]:
    place = Georeference(CRS.from_user_input(crs), affine, "scene.tif", shape)
    ground = Ground(np.array([polygon], dtype=object), place)
    (found,) = ground.polygons(decimals_of(place))
    west, south, east, north = found.bounds
    assert found.is_valid
    assert (west, south) >= (-180, -90)
    assert (east, north) <= (180, 90)
    return found, float(ground.areas[0])


@pytest.mark.parametrize("left", [200.0, 179.5, 359.95, 359.7, -180.5, 170.0, -540.5, 719.8])
def test_longitudes_are_counted_from_minus_180_and_nothing_is_lost_at_the_cut(left: float) -> None:
    outer, hole = shapely.box(10, 10, 90, 70), shapely.box(20, 20, 80, 60)
    found, area = lonlat(
        shapely.difference(outer, hole), "EPSG:4326", rasterio.Affine(0.01, 0, left, 0, -0.01, 10), (100, 100)
    )
    assert found.area == pytest.approx((80 * 60 - 60 * 40) * 1e-4, rel=1e-6)
    assert drawn_area(found) == pytest.approx(area, rel=1e-6)


@pytest.mark.parametrize("left", [-180.0, 0.0, -90.0])
@pytest.mark.parametrize("columns", [359, 360])
def test_a_region_around_the_whole_globe(left: float, columns: int) -> None:
    found, area = lonlat(
        shapely.box(0, 0, columns, 120), "EPSG:4326", rasterio.Affine(1, 0, left, 0, -1, 60), (120, 360)
    )
    assert found.area == pytest.approx(columns * 120, rel=1e-9)
    assert drawn_area(found) == pytest.approx(area, rel=1e-6)
    if columns == 360:
        assert shapely.equals(found, shapely.box(-180, -60, 180, 60))


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3031", "EPSG:6931", "EPSG:6932"])
@pytest.mark.parametrize("shift", [0.0, 3.0, 20.0])
def test_a_region_around_a_pole_holds_the_pole(crs: str, shift: float) -> None:
    # By 20 pixels the pole lies on the edge of the region.
    affine = rasterio.Affine(25000, 0, -1e6 + 25000 * shift, 0, -25000, 1e6)
    found, area = lonlat(shapely.box(20, 20, 60, 60), crs, affine, (80, 80))
    pole = -90 if crs in ("EPSG:3031", "EPSG:6932") else 90
    assert drawn_area(found) == pytest.approx(area, rel=2e-3)
    assert pole in (found.bounds[1], found.bounds[3])
    around = shapely.difference(shapely.box(20, 20, 60, 60), shapely.box(30, 30, 50, 50))
    found, area = lonlat(around, crs, rasterio.Affine(25000, 0, -1e6, 0, -25000, 1e6), (80, 80))
    assert drawn_area(found) == pytest.approx(area, rel=2e-3)
    assert not shapely.intersects(found, shapely.Point(12, pole))


def test_a_region_of_nearly_the_whole_globe_is_no_small_one() -> None:
    crs = "+proj=laea +lat_0=0 +lon_0=150 +datum=WGS84"
    disk = shapely.Point(100, 100).buffer(95.0, quad_segs=64)
    found, area = lonlat(disk, crs, rasterio.Affine(127420, 0, -12742000, 0, -127420, 12742000), (200, 200))
    assert area == pytest.approx(2 * 255032810857000.0 * 0.95**2, rel=2e-3)
    assert drawn_area(found) == pytest.approx(area, rel=2e-3)
    assert not shapely.intersects(found, shapely.Point(-30.0, 0.0))


def test_long_edges_keep_their_course_and_short_ones_get_no_points() -> None:
    affine = rasterio.Affine(1000, 0, 200000, 0, -1000, 8000000)
    found, area = lonlat(shapely.box(0, 0, 600, 1000), "EPSG:32633", affine, (1000, 600))
    rim = shapely.get_coordinates(shapely.segmentize(shapely.box(0, 0, 600, 1000).exterior, 1.0))
    true = np.array(warp("EPSG:32633", "EPSG:4326", *np.array([affine @ tuple(point) for point in rim]).T)).T
    off = shapely.distance(found.exterior, shapely.points(true))
    assert off.max() < 0.05 * 1000 / 111320 * 2
    assert drawn_area(found) == pytest.approx(area, rel=1e-4)
    small, _ = lonlat(shapely.box(3, 3, 40, 50), "EPSG:32633", affine @ affine.scale(0.001), (60, 60))
    assert shapely.get_num_coordinates(small) == 5


def test_a_ring_around_a_pole_is_closed_where_it_does_not_cross_itself() -> None:
    # The ring wanders beyond the meridian of its first point, nearer to the pole than that point is.
    points = np.array([[0, 60], [40, 60], [-20, 70], [60, 65], [180, 62], [300, 61], [340, 58.0]])
    (found,) = fold([Ring(points, 1, False, False)], 7)
    assert found.is_valid
    assert found.bounds == (-180, 58, 180, 90)
    path = np.concatenate([points, points[:1] + np.array([360, 0])])
    missing = (np.diff(path[:, 0]) * (180 - path[1:, 1] - path[:-1, 1]) / 2).sum()
    assert found.area == pytest.approx(missing, rel=1e-9)


def test_areas_are_rounded_to_digits_and_not_to_square_millimetres() -> None:
    given = np.array([31.23456, 0.0123456, 4.00049e-6, 0.0, np.nan, 1.0])
    np.testing.assert_array_equal(round_areas(given), [31.235, 0.01235, 4e-6, 0.0, np.nan, 1.0])


@pytest.mark.parametrize(("pixel", "decimals"), [(10000.0, 7), (0.5, 7), (0.1, 8), (0.001, 10)])
def test_decimals_follow_the_pixel(pixel: float, decimals: int) -> None:
    place = Georeference(CRS.from_epsg(32633), rasterio.Affine(pixel, 0, 5e5, 0, -pixel, 5e6), "scene.tif", (10, 10))
    assert decimals_of(place) == decimals


@pytest.mark.parametrize(("longitude", "latitude"), [(0.0, 45.0), (180.0, 10.0), (12.3, 51.0)])
def test_pixels_of_millimetres_keep_their_size_in_the_file(tmp_path: Path, longitude: float, latitude: float) -> None:
    step = 1e-8
    affine = rasterio.Affine(step, 0, longitude - 50 * step, 0, -step, latitude + 50 * step)
    corner = np.array([(column, row) for column in range(30, 70, 4) for row in range(30, 70, 4)], np.float64)
    boxes = shapely.box(*corner.T, *(corner + 3).T)
    place = Georeference(CRS.from_epsg(4326), affine, "fine.tif", (100, 100))
    write_vectors(tmp_path / "o.geojson", [Features(boxes, np.zeros(100, int), np.ones(100))], place, ("a",))
    document = json.loads((tmp_path / "o.geojson").read_text())
    assert document["xy_coordinate_resolution"] == 10.0 ** -decimals_of(place)
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in document["features"]]
    np.testing.assert_allclose([shape.area for shape in shapes], 9 * step**2, rtol=0.03)
    assert all(shape.is_valid for shape in shapes)


def test_the_rim_of_a_full_disk(tmp_path: Path) -> None:
    size = 200
    affine = rasterio.Affine(2 * HALF / size, 0, -HALF, 0, -2 * HALF / size, HALF)
    place = Georeference(CRS.from_user_input(GEOS), affine, "disk.tif", (size, size))
    assert place.image.area == pytest.approx(np.pi / 4 * size**2, rel=0.03)
    quarters = shapely.box([0, 100, 99], [0, 0, 99], [100, 200, 101], [100, 100, 101])
    notes: list[str] = []
    features = Features(quarters, np.zeros(3, int), np.ones(3))
    check_georeference(place, (".gpkg", ".geojson"))
    assert write_vectors(tmp_path / "out.geojson", [features], place, ("a",), notes=notes) == 3
    found = json.loads((tmp_path / "out.geojson").read_text())["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in found]
    assert [feature["properties"]["area_m2"] is None for feature in found] == [True, True, False]
    assert all(shape.is_valid for shape in shapes)
    # From there 42 % of the Earth are seen, of which the pixels at the rim hold a tenth.
    assert drawn_area(shapes[0]) == pytest.approx(drawn_area(shapes[1]), rel=1e-3)
    assert drawn_area(shapes[0]) == pytest.approx(0.106 * 5.1e14, rel=0.15)
    assert ["2 of 3 features" in note for note in notes] == [True]


CRSS = (
    *(f"EPSG:{code}" for code in (4326, 3413, 3031, 32660, 3857, 3035, 6933, 3832, 4807)),
    "+proj=laea +lat_0=70 +lon_0=-170 +datum=WGS84",
    "+proj=ortho +lat_0=60 +lon_0=180 +datum=WGS84",
    "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +datum=WGS84 +to_meter=0.0174532925199433",
    GEOS,
)


@pytest.mark.parametrize("number", range(len(CRSS)))
def test_random_polygons_anywhere_are_valid_and_as_large_as_their_area_says(number: int) -> None:
    crs, generator, measured = CRS.from_user_input(CRSS[number]), np.random.default_rng(number), 0
    for _ in range(20):
        longitude = generator.choice([generator.uniform(-180, 180), 180, -179.9])
        latitude = generator.choice([np.degrees(np.arcsin(generator.uniform(-1, 1))), 89.9, -89.9], p=[0.6, 0.2, 0.2])
        try:
            (x,), (y,) = warp("EPSG:4326", crs, [longitude], [latitude])
        except Exception:
            continue
        metres = 10 ** generator.uniform(0, 4.5)
        step = metres / 111320 if crs.is_geographic else metres
        turn = rasterio.Affine.rotation(generator.choice([0, 30, 200]))
        start = rasterio.Affine.translation(x, y) @ turn @ rasterio.Affine.scale(step, -step)
        place = Georeference(crs, start @ rasterio.Affine.translation(-30, -30), "scene.tif", (60, 60))
        if not len(place.steps):
            continue
        on_ground = np.linalg.svd(place.steps * [np.cos(np.radians(latitude)), 1], compute_uv=False)
        # On the far side of a map pixels are needles, whose shape a line of longitudes and latitudes hardly follows.
        if np.median(on_ground[:, 0] / on_ground[:, 1]) > 4:
            continue
        low = generator.uniform(0, 40, (8, 2))
        boxes = shapely.box(*low.T, *(low + generator.uniform(4, 20, (8, 2))).T)
        boxes[0] = shapely.difference(shapely.box(0, 0, 60, 60), shapely.box(25, 28, 40, 33))
        ground = Ground(boxes, place)
        for area, shape in zip(ground.areas, ground.polygons(decimals_of(place)), strict=True):
            # At the point opposite to the centre of a map, a pixel is no part of the Earth.
            if np.isnan(area) or not 0.01 < area / (metres**2 * 20) < 1e4:
                continue
            west, south, east, north = shape.bounds
            assert shape.is_valid
            assert west >= -180 and south >= -90 and east <= 180 and north <= 90  # noqa: PT018
            assert drawn_area(shape) == pytest.approx(area, rel=0.01)
            measured += 1
    assert measured > 3


class _Pixels:
    card = make_card(task="segmentation", bands=("b",), mean=(0.0,), std=(1.0,), overlap=0, background=0)

    def __call__(self, images: Any) -> TileOutputs:
        bright = (images[:, 0] > 100).astype(np.float32)
        return TileOutputs(maps={"scores": np.stack([1 - bright, bright], 1)})


def _write(path: Path, crs: Any, affine: Any) -> Path:
    values = np.zeros((1, 80, 80), np.uint8)
    values[0, 20:60, 20:60] = 200
    with rasterio.open(
        path, "w", driver="GTiff", width=80, height=80, count=1, dtype="uint8", crs=crs, transform=affine
    ) as sink:
        sink.write(values)
    return path


MOON = (
    'GEOGCS["GCS_Moon_2000",DATUM["D_Moon_2000",SPHEROID["Moon",1737400,0]],PRIMEM["Ref",0],'
    'UNIT["degree",0.0174532925199433]]'
)
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


@pytest.mark.parametrize(("crs", "word"), [(MOON, "celestial body"), (LOCAL, "local")])
def test_formats_without_a_place_on_earth_are_decided_before_the_work(tmp_path: Path, crs: str, word: str) -> None:
    path = _write(tmp_path / "a.tif", CRS.from_wkt(crs), rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 10))

    class Never(_Pixels):
        def __call__(self, images: Any) -> TileOutputs:
            raise AssertionError("the model was called")

    with pytest.raises(GeoError, match=rf"GeoJSON holds longitude and latitude on the Earth.*{word}.*\.gpkg"):
        predict(path, tmp_path / "no", Never(), settings=Settings(formats=("gpkg", "geojson")))
    result = predict(path, tmp_path / "out", _Pixels(), settings=Settings(formats=("gpkg", "fgb", "parquet", "tif")))
    assert result.count == 1


@pytest.mark.parametrize("crs", [MOON, LOCAL, "EPSG:4978", "EPSG:5773"])
def test_a_function_is_mapped_over_any_place(tmp_path: Path, crs: str) -> None:
    path = _write(tmp_path / "a.tif", CRS.from_user_input(crs), rasterio.Affine(1, 0, 10, 0, -1, 10))
    result = map_raster(lambda images: images, path, tmp_path / "out.tif", tile=64, overlap=16)
    with rasterio.open(result.path) as mapped, rasterio.open(path) as source:
        assert mapped.transform == source.transform
        np.testing.assert_allclose(mapped.read(), source.read(), rtol=1e-6)


def test_a_note_says_what_has_no_area_also_when_the_run_is_not_done_again(tmp_path: Path) -> None:
    size = HALF / 40
    path = _write(tmp_path / "disk.tif", GEOS, rasterio.Affine(size, 0, -HALF * 2, 0, -size, HALF / 2))
    for _ in range(2):
        result = predict(path, tmp_path / "out", _Pixels(), settings=Settings(formats=("gpkg",)))
        assert "1 of 1 features reach beyond" in result.notes[-1]
