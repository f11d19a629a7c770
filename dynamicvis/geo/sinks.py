"""Objects as vector files: GeoPackage in the scene's CRS, GeoJSON in longitude and latitude."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.detect import Detections
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.projection import box_corners, polygon_areas, project
from dynamicvis.geo.source import Scene

_FIELDS = ("id", "class", "score", "area_m2")


def write_geopackage(path: str | Path, detections: Detections, scene: Scene, classes: Sequence[str]) -> None:
    """Write one polygon per object in the scene's CRS, one layer named like the file.

    Attributes are ``id`` (1 to N, best score first), ``class``, ``score`` (0 to 1, 4 decimals) and ``area_m2`` (on
    the ellipsoid, 3 decimals). A scene without a CRS gives pixel coordinates (x = column, y = row, from the top left
    corner) in the GeoPackage's undefined Cartesian CRS, and no areas.

    Raises:
        GeoError: coordinates outside the CRS's area, or the file cannot be written.
    """
    crs = None if scene.crs is None else scene.crs.to_wkt(version="WKT2_2019")
    undefined_cartesian = {"SRID": "-1"}
    _write(Path(path), "GPKG", detections, scene, classes, crs, undefined_cartesian if crs is None else {})


def write_geojson(path: str | Path, detections: Detections, scene: Scene, classes: Sequence[str]) -> None:
    """Write one feature per object after RFC 7946: EPSG:4326, longitude first, 7 decimals, cut at the antimeridian.

    Properties are those of `write_geopackage`. A scene without a CRS gives pixel coordinates (x = column, y = row,
    from the top left corner), which no GeoJSON reader can place on a map.

    Raises:
        GeoError: coordinates that have no longitude and latitude, or the file cannot be written.
    """
    if scene.crs is None:
        _write(Path(path), "GeoJSON", detections, scene, classes, None, {"RFC7946": "NO", "COORDINATE_PRECISION": "7"})
        return
    project(box_corners(detections.boxes, scene.affine), scene.crs, "EPSG:4326", scene.path)
    crs = scene.crs.to_wkt(version="WKT2_2019")
    _write(Path(path), "GeoJSON", detections, scene, classes, crs, {"RFC7946": "YES", "COORDINATE_PRECISION": "7"})


def _write(
    path: Path,
    driver: str,
    detections: Detections,
    scene: Scene,
    classes: Sequence[str],
    crs: str | None,
    layer_options: dict[str, str],
) -> None:
    import pyogrio.raw
    from pyogrio.errors import DataLayerError, DataSourceError

    corners = box_corners(detections.boxes, scene.affine)
    areas = np.full(len(corners), np.nan) if scene.crs is None else polygon_areas(corners, scene.crs, scene.path)
    columns: list[NDArray[Any]] = [
        np.arange(1, len(corners) + 1, dtype=np.int64),
        np.array([classes[label] for label in detections.labels], dtype=object),
        detections.scores.round(4),
        areas.round(3),
    ]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            pyogrio.raw.write(
                path,
                _polygons(corners),
                columns,
                _FIELDS,
                driver=driver,
                geometry_type="Polygon",
                crs=crs,
                layer=path.stem,
                layer_options=layer_options,
            )
    except (DataSourceError, DataLayerError) as error:
        raise GeoError(f"{path.name} cannot be written ({error}); check the folder and its free space") from error


def _polygons(corners: NDArray[np.float64]) -> NDArray[np.object_]:
    """(N, 4, 2) corners as N closed polygons in well-known binary."""
    header = struct.pack("<BIII", 1, 3, 1, 5)  # little endian, polygon, one ring, five points
    rings = np.concatenate([corners, corners[:, :1]], axis=1).astype("<f8")
    polygons = np.empty(len(rings), dtype=object)
    for index, ring in enumerate(rings):
        polygons[index] = header + ring.tobytes()
    return polygons
