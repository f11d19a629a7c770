"""Pixels to map coordinates, and areas in square metres."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from dynamicvis.geo.errors import GeoError

# EASE-Grid 2.0 global: cylindrical equal-area, metres, defined from pole to pole.
_EQUAL_AREA = "EPSG:6933"
_EQUAL_AREA_WIDTH = 2 * 17367530.445161372  # of the whole globe, metres
_EQUAL_AREA_POLE = 7342230.136498678  # ordinate of the north pole, metres
# Straight lines of a raster are curves in the equal-area system. A line cut into pieces of this many pixels runs within
# pixels * pixel size * tan(latitude) / (12 * radius of the Earth) pieces of its true course: below 1e-4 pixels for
# pixels of 10 m up to latitude 70.
_STRAIGHT = 16.0


def box_corners(boxes: NDArray[np.float64], affine: Any) -> NDArray[np.float64]:
    """Map coordinates of the four corners of each box, counter-clockwise on a north-up map.

    Args:
        boxes: (N, 4) left, top, right, bottom, pixels.
        affine: the raster's affine transform, any rotation.

    Returns:
        (N, 4, 2) x and y in the units of the affine.
    """
    left, top, right, bottom = boxes.T
    columns = np.stack([left, left, right, right], axis=1)
    rows = np.stack([top, bottom, bottom, top], axis=1)
    x = affine.a * columns + affine.b * rows + affine.c
    y = affine.d * columns + affine.e * rows + affine.f
    return np.stack([x, y], axis=2)


def project(points: NDArray[np.float64], crs: Any, target: str, name: str) -> NDArray[np.float64]:
    """Transform points from ``crs`` to ``target``; longitude comes first in geographic systems.

    Args:
        points: (..., 2) x and y.
        name: the file the points belong to, for the message.

    Raises:
        GeoError: there is no way from one system to the other, or a point has no image in the target.
    """
    flat = points.reshape(-1, 2)
    try:
        projected = np.array(transform(crs, target, flat[:, 0].tolist(), flat[:, 1].tolist()), np.float64).T
    except (CPLE_BaseError, CRSError, RasterioError) as error:
        raise _no_image(name, target) from error
    if not np.isfinite(projected).all():
        raise _no_image(name, target)
    return projected.reshape(points.shape)


def to_map(points: NDArray[np.float64], affine: Any) -> NDArray[np.float64]:
    """Map coordinates (N, 2) of points (N, 2) given as column and row, pixels."""
    columns, rows = points.T
    return np.stack(
        [
            affine.a * columns + affine.b * rows + affine.c,
            affine.d * columns + affine.e * rows + affine.f,
        ],
        axis=1,
    )


def areas(polygons: NDArray[np.object_], affine: Any, crs: Any, name: str) -> NDArray[np.float64]:
    """Areas on the ellipsoid of polygons in pixel coordinates.

    Holes, several parts, any rotation of the affine, the antimeridian and a pole inside are all accounted for. Edges
    are straight in the raster, as they were drawn, and not in the equal-area system: see ``_STRAIGHT``.

    Args:
        polygons: (N,) shapely polygons or multipolygons, column and row in pixels, valid.
        affine: the raster's affine transform.
        crs: of the raster.
        name: the file they belong to, for the message.

    Returns:
        (N,) square metres; 0 for an empty polygon.

    Raises:
        GeoError: the coordinates lie outside the area where ``crs`` is defined.
    """
    if not len(polygons):
        return np.empty(0)
    parts, owner = shapely.get_parts(polygons, return_index=True)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    if not len(rings):
        return np.zeros(len(polygons))
    is_hole = np.diff(part_of_ring, prepend=-1) == 0
    points, ring_of_point = shapely.get_coordinates(shapely.segmentize(rings, _STRAIGHT), return_index=True)
    points = project(to_map(points, affine), crs, _EQUAL_AREA, name)
    signed = np.where(is_hole, -1, 1) * _ring_areas(points, ring_of_point, len(rings))
    return np.bincount(owner[part_of_ring], signed, minlength=len(polygons)).astype(np.float64)


def polygon_areas(corners: NDArray[np.float64], crs: Any, name: str) -> NDArray[np.float64]:
    """Areas on the ellipsoid of small quadrilaterals.

    Args:
        corners: (N, 4, 2) map coordinates in ``crs``.
        name: the file they belong to, for the message.

    Returns:
        (N,) square metres.

    Raises:
        GeoError: the coordinates lie outside the area where ``crs`` is defined.
    """
    rings = np.concatenate([corners, corners[:, :1]], axis=1)
    points = project(rings, crs, _EQUAL_AREA, name).reshape(-1, 2)
    return _ring_areas(points, np.repeat(np.arange(len(rings)), 5), len(rings))


def _ring_areas(points: NDArray[np.float64], ring: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Areas of closed rings in the equal-area system: points (M, 2) with the index of their ring (M,), in order."""
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    inside = ring[1:] == ring[:-1]
    edge_ring = ring[1:][inside]
    width = np.diff(points[:, 0])[inside]
    # An edge across the antimeridian has its ends on both sides of the map.
    width -= np.round(width / _EQUAL_AREA_WIDTH) * _EQUAL_AREA_WIDTH
    # A ring around a pole goes once around the globe, and its area lies between it and the pole.
    around = np.abs(np.bincount(edge_ring, width, minlength=count)) > _EQUAL_AREA_WIDTH / 2
    first = points[starts, 1]
    base = np.where(around, np.copysign(_EQUAL_AREA_POLE, first), first)
    height = points[:, 1] - base[ring]
    middle = (height[1:] + height[:-1])[inside] / 2
    return np.abs(np.bincount(edge_ring, width * middle, minlength=count))


def _no_image(name: str, target: str) -> GeoError:
    return GeoError(
        f"{name}: its coordinates cannot be transformed to {target}; its CRS or affine is wrong, set the right ones "
        "with `gdal_edit.py -a_srs EPSG:<code> -a_ullr <ulx> <uly> <lrx> <lry>`"
    )
