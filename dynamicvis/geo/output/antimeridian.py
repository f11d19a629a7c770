"""Polygons on the globe as RFC 7946 has them: longitudes from -180 to 180, cut at the antimeridian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

_WHOLE = shapely.box(-180, -90, 180, 90)


@dataclass(frozen=True)
class Ring:
    """An outline on the globe, with its polygon to the left.

    Attributes:
        points: (M, 2) longitude and latitude, degrees, without a jump and without the last point, which is the first
            one moved by 360 degrees times the winding.
        winding: 1 for a ring that goes once around the globe to the east, -1 to the west, else 0.
        hole: what lies to the right is a hole of the polygon.
        outside: of a ring without winding: the polygon, or hole, is not what the points enclose but all else.
    """

    points: NDArray[np.float64]
    winding: int
    hole: bool
    outside: bool


def fold(rings: Sequence[Ring], decimals: int) -> NDArray[np.object_]:
    """A polygon on the globe as polygons that no edge of the map of longitude and latitude cuts.

    Args:
        rings: of one polygon, in any order.
        decimals: of the result.

    Returns:
        (K,) valid polygons within -180 to 180 and -90 to 90, counter-clockwise; along +-90 where they hold a pole.
    """
    outer = shapely.union_all([_enclosed(ring) for ring in rings if not ring.hole])
    holes = [_enclosed(ring) for ring in rings if ring.hole]
    whole = shapely.difference(outer, shapely.union_all(holes)) if holes else outer
    snapped = shapely.set_precision(whole, 10.0**-decimals)
    rounded = shapely.transform(snapped, lambda points: points.round(decimals) + 0.0)
    parts = areal_parts(rounded if shapely.is_valid(rounded) else snapped)
    return np.atleast_1d(shapely.orient_polygons(parts))


def areal_parts(shape: Any) -> NDArray[np.object_]:
    """The polygons (K,) of a shape, without its lines, points and empty parts."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    kept = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)
    return np.asarray(parts[kept], dtype=object)


def _enclosed(ring: Ring) -> Any:
    """What lies to the left of a ring, or to the right of a hole, on the map of longitude and latitude."""
    if not ring.winding:
        inside = _wrapped(ring.points)
        return shapely.difference(_WHOLE, inside) if ring.outside else inside
    north = (ring.winding > 0) != ring.hole
    # From the point nearest to the pole, the meridian to it meets the ring nowhere else.
    latitudes = ring.points[:, 1]
    start = int(latitudes.argmax() if north else latitudes.argmin())
    onward = ring.points[: start + 1] + np.array([360.0 * ring.winding, 0])
    path = np.concatenate([ring.points[start:], onward])
    pole = 90.0 if north else -90.0
    return _wrapped(np.concatenate([path, [[path[-1, 0], pole], [path[0, 0], pole]]]))


def _wrapped(points: NDArray[np.float64]) -> Any:
    """The polygon of points at any longitudes, put together from -180 to 180."""
    polygon = shapely.Polygon(points)
    if not polygon.is_valid:
        polygon = shapely.union_all(areal_parts(shapely.make_valid(polygon)))
    if polygon.is_empty:
        return polygon
    west, _, east, _ = polygon.bounds
    turns = range(int(np.floor((west + 180) / 360)), int(np.ceil((east + 180) / 360)))
    pieces = []
    for turn in turns:
        strip = shapely.box(-180 + 360 * turn, -90, 180 + 360 * turn, 90)
        piece = shapely.intersection(polygon, strip)
        pieces.append(shapely.transform(piece, lambda points, turn=turn: points - [360.0 * turn, 0]))
    return shapely.union_all(pieces)
