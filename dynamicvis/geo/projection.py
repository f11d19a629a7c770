"""Pixels to map coordinates, and areas in square metres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from dynamicvis.geo.errors import GeoError

# EASE-Grid 2.0 global: cylindrical equal-area, metres, defined from pole to pole.
_EQUAL_AREA = "EPSG:6933"
_EQUAL_AREA_WIDTH = 2 * 17367530.445161372  # of the whole globe, metres


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
    points = project(corners, crs, _EQUAL_AREA, name)
    points = points - points[:, :1]
    # A box across the antimeridian has corners on both sides of the map.
    points[..., 0] -= np.round(points[..., 0] / _EQUAL_AREA_WIDTH) * _EQUAL_AREA_WIDTH
    following = np.roll(points, -1, axis=1)
    cross = points[..., 0] * following[..., 1] - following[..., 0] * points[..., 1]
    return np.abs(cross.sum(axis=1)) / 2


def _no_image(name: str, target: str) -> GeoError:
    return GeoError(
        f"{name}: its coordinates cannot be transformed to {target}; its CRS or affine is wrong, set the right ones "
        "with `gdal_edit.py -a_srs EPSG:<code> -a_ullr <ulx> <uly> <lrx> <lry>`"
    )
