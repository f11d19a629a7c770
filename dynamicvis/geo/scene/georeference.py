"""Where the pixels of a scene are, on the map and on the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.warp import reproject, transform

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.reading import without_warnings
from dynamicvis.geo.scene.surface import Globe, Plane, surface_of

_NODES = 17  # along each axis of a scene, at which its CRS is tried
_CELLS = 1024  # along the longer axis, of the map of what has an image
_POLE = 90 + 1e-9  # degrees; a latitude beyond it is none
_TURNS = 20  # around the globe, that longitudes may count


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a scene are.

    Attributes:
        crs: rasterio CRS; None for a scene without one, whose vectors then hold pixel coordinates and no areas.
        affine: pixel (column, row) to map (x, y).
        name: the scene's file, for messages.
        shape: height and width, pixels, where they are known.
    """

    crs: CRS | None
    affine: Affine
    name: str
    shape: tuple[int, int] | None = None

    @cached_property
    def surface(self) -> Globe | Plane:
        """What the map lies on; with a CRS.

        Raises:
            GeoError: the CRS has no such thing.
        """
        return surface_of(self.crs, self.name)

    def lonlat(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Longitude and latitude of points, on a `Globe`.

        Args:
            pixels: (N, 2) column and row.

        Returns:
            (N, 2) degrees, NaN where a point has no image. Longitudes of a geographic CRS are as its coordinates count
            them, of another from -180 to 180.
        """
        surface = self.surface
        assert isinstance(surface, Globe)
        points = to_map(pixels, self.affine)
        usable = np.isfinite(points).all(axis=1)
        if surface.degrees is not None:
            usable &= np.abs(points[:, 1] * surface.degrees) <= _POLE
        found = np.full(points.shape, np.nan)
        found[usable] = _images(self.crs, surface.lonlat, points[usable])
        found[~(np.abs(found[:, 1]) <= _POLE)] = np.nan
        found[:, 1] = found[:, 1].clip(-90, 90)
        if surface.degrees is not None:
            found[:, 0] += 360 * np.round((points[:, 0] * surface.degrees - found[:, 0]) / 360)
        return found

    @cached_property
    def image(self) -> Any:
        """The part of the map that has an image on the globe: a polygon in pixels, or None where all has one.

        Coarser than a pixel in scenes of more than 1024 pixels; it never covers what has no image.
        """
        surface = self.surface
        assert isinstance(surface, Globe)
        if surface.degrees is not None:
            return self._between_the_poles(surface.degrees)
        if self.shape is None or np.isfinite(self._tried).all():
            return None
        height, width = self.shape
        step = max(1, math.ceil(max(height, width) / _CELLS))
        rows, columns = math.ceil(height / step), math.ceil(width / step)
        nodes = self._has_image(rows, columns)
        cells = nodes[:-1, :-1] & nodes[1:, :-1] & nodes[:-1, 1:] & nodes[1:, 1:]
        # Runs of cells with an image, row by row: where each begins and ends.
        change = np.diff(np.pad(cells.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        (row, left), right = np.nonzero(change > 0), np.nonzero(change < 0)[1]
        runs = shapely.box(left, row, right, row + 1)
        return shapely.transform(shapely.union_all(runs), lambda points: points * [width / columns, height / rows])

    @cached_property
    def found(self) -> NDArray[np.float64]:
        """Points spread over the scene that have an image on the globe, (N, 2) column and row."""
        return self._nodes[np.isfinite(self._tried).all(axis=1)]

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """Degrees of longitude and latitude along one column and along one row, (N, 2, 2), at points with an image."""
        found = [self.lonlat(self.found + 0.5 * np.array(shift)) for shift in ((0, 0), (1, 0), (0, 1))]
        moved = 2 * np.stack([found[1] - found[0], found[2] - found[0]], axis=1)
        moved[..., 0] -= 720 * np.round(moved[..., 0] / 720)
        return np.asarray(moved[np.isfinite(moved).all(axis=(1, 2))])

    @property
    def mirrored(self) -> bool:
        """Whether rows and columns turn the other way on the ground than longitude and latitude; so north-up maps."""
        (a, b), (c, d) = self.steps.transpose(1, 2, 0)
        turn = np.sign(a * d - b * c).sum()
        return bool(turn < 0 if turn else self.affine.determinant < 0)

    def check(self) -> None:
        """Refuse a georeference that cannot be: no surface, or no point of the scene with an image.

        Raises:
            GeoError: as above.
        """
        if self.crs is not None and isinstance(self.surface, Globe) and not len(self.found):
            raise GeoError(
                f"{self.name}: its coordinates cannot be transformed to longitude and latitude; its CRS or affine is "
                "wrong, set the right ones with `gdal_edit.py -a_srs EPSG:<code> -a_ullr <ulx> <uly> <lrx> <lry>`"
            )

    @cached_property
    def _nodes(self) -> NDArray[np.float64]:
        """Points spread over the scene, edges included, (N, 2) pixels."""
        height, width = self.shape or (1, 1)
        columns, rows = np.meshgrid(np.linspace(0, width, _NODES), np.linspace(0, height, _NODES))
        return np.stack([columns.ravel(), rows.ravel()], axis=1)

    @cached_property
    def _tried(self) -> NDArray[np.float64]:
        return self.lonlat(self._nodes)

    def _between_the_poles(self, degrees: float) -> Any:
        if self.shape is not None:
            height, width = self.shape
            corners = to_map(np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64), self.affine)
            if (np.abs(corners[:, 1] * degrees) <= _POLE).all():
                return None
        wide, high = 360 * _TURNS / degrees, 90 / degrees
        return shapely.transform(shapely.box(-wide, -high, wide, high), lambda points: to_map(points, ~self.affine))

    def _has_image(self, rows: int, columns: int) -> NDArray[np.bool_]:
        """Whether the corners of cells have an image, (rows + 1, columns + 1)."""
        assert self.shape is not None
        height, width = self.shape
        surface = self.surface
        assert isinstance(surface, Globe)
        found = np.zeros((rows + 1, columns + 1), np.uint8)
        # A raster of the globe is laid over the scene: its pixels are centred on the corners, and are 1 where there is
        # an image. A call for single points would stop at the first that has none.
        source = rasterio.Affine(10, 0, -360 * _TURNS, 0, -180.0000002 / 18, 90.0000001)
        to_corner = self.affine @ self.affine.scale(width / columns, height / rows)
        with without_warnings(NotGeoreferencedWarning):
            reproject(
                np.ones((18, 72 * _TURNS), np.uint8),
                found,
                src_transform=source,
                src_crs=surface.lonlat,
                dst_transform=to_corner @ self.affine.translation(-0.5, -0.5),
                dst_crs=self.crs,
                tolerance=0,
            )
        return found > 0


def to_map(points: NDArray[np.float64], affine: Affine) -> NDArray[np.float64]:
    """Map coordinates (..., 2) of points (..., 2) given as column and row, pixels."""
    columns, rows = points[..., 0], points[..., 1]
    return np.stack(
        [affine.a * columns + affine.b * rows + affine.c, affine.d * columns + affine.e * rows + affine.f], axis=-1
    )


def _images(crs: Any, target: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, 2) in another CRS, NaN where one has no image there."""
    if not len(points):
        return points
    try:
        found = np.array(transform(crs, target, points[:, 0].tolist(), points[:, 1].tolist()), np.float64).T
    except (CPLE_BaseError, CRSError, RasterioError):
        # One point is enough for an error of all.
        if len(points) == 1:
            return np.full((1, 2), np.nan)
        half = len(points) // 2
        return np.concatenate([_images(crs, target, points[:half]), _images(crs, target, points[half:])])
    found[~np.isfinite(found).all(axis=1)] = np.nan
    return found
