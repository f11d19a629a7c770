"""From one CRS to another, and areas in square metres."""

from __future__ import annotations

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.scene.ground import Ground


def project(points: NDArray[np.float64], crs: CRS | None, target: CRS | str | None, name: str) -> NDArray[np.float64]:
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


def areas(polygons: NDArray[np.object_], affine: Affine, crs: CRS, name: str) -> NDArray[np.float64]:
    """Areas on the ellipsoid of polygons in pixel coordinates.

    Holes, several parts, any rotation of the affine, the antimeridian and a pole inside are all accounted for. Edges
    are straight in the raster, as they were drawn. On another celestial body areas are those on its own ellipsoid, and
    in a local CRS those on its plane.

    Args:
        polygons: (N,) shapely polygons or multipolygons, column and row in pixels, valid.
        affine: the raster's affine transform.
        crs: of the raster.
        name: the file they belong to, for the message.

    Returns:
        (N,) square metres; 0 for an empty polygon, NaN for one that reaches beyond what has a place on the ground.

    Raises:
        GeoError: ``crs`` has no horizontal coordinates.
    """
    return Ground(polygons, Georeference(crs, affine, name)).areas


def _no_image(name: str, target: CRS | str | None) -> GeoError:
    return GeoError(
        f"{name}: its coordinates cannot be transformed to {target}; its CRS or affine is wrong, set the right ones "
        "with `gdal_edit.py -a_srs EPSG:<code> -a_ullr <ulx> <uly> <lrx> <lry>`"
    )
