"""Polygons of a scene on the ground: their areas, and their outlines in longitude and latitude.

Edges are straight in the raster, and curves on the ground. They are cut until a straight line in longitude and latitude
keeps within `_TOLERANCE` pixels of each piece; an area takes the rest of the curve into account, as a parabola.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from dynamicvis.geo.output.antimeridian import Ring, areal_parts, fold
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.scene.surface import Globe, Plane

_TOLERANCE = 0.02  # pixels
_SLIGHT = 0.02  # of the tolerance: what is less bent is straight however narrow the pixels are
_LONG = 8.0  # pixels; longer pieces are tried at three points, as an S may pass through the middle of its chord
_HALVINGS = 40
_AT_POLE = 90 - 1e-9  # degrees
_POLAR = 89.0  # degrees; further out the pixels of a map are about as in its middle
_NOISE = 3e-10  # degrees, of a transformation
_DECIMALS = (7, 13)  # of degrees: a centimetre, and what float64 holds
_FINE = 1 / 40  # of a pixel: the last decimal of a coordinate
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of edges in their order.

    Attributes:
        edge: (P,) the edge that each is a part of.
        start, middle, end: (P, 2) longitude and latitude, degrees.
        width: (P, 2) how far each goes east, and of that the middle of its curve lies east of the middle of its chord.
    """

    edge: NDArray[np.intp]
    start: NDArray[np.float64]
    middle: NDArray[np.float64]
    end: NDArray[np.float64]
    width: NDArray[np.float64]


class Ground:
    """Polygons of a scene on the globe or plane that it shows.

    Attributes:
        areas: (N,) square metres; NaN where a polygon is clipped or has no image.
        clipped: (N,) the polygon reaches beyond what has an image; only the part that has one is here.

    Args:
        polygons: (N,) shapely polygons or multipolygons, column and row in pixels, valid.
        georeference: of the scene.

    Raises:
        GeoError: the CRS has no surface.
    """

    def __init__(self, polygons: NDArray[np.object_], georeference: Georeference) -> None:
        self._georeference, self._count = georeference, len(polygons)
        self.clipped = np.zeros(len(polygons), bool)
        surface = georeference.surface
        if isinstance(surface, Plane):
            self.areas = shapely.area(polygons) * abs(georeference.affine.determinant) * surface.metres**2
            return
        self._surface: Globe = surface
        if len(polygons):
            polygons = self._clip(polygons)
        polygons = shapely.orient_polygons(polygons, exterior_cw=georeference.mirrored)
        parts, owner = shapely.get_parts(polygons, return_index=True)
        solid = ~shapely.is_empty(parts)
        self._owner = owner[solid]
        self._trace(parts[solid])
        self.areas = np.bincount(self._owner, self._part_areas(), minlength=self._count).astype(np.float64)
        self.areas[self.clipped] = np.nan

    def polygons(self, decimals: int) -> NDArray[np.object_]:
        """The polygons in longitude and latitude, cut at the antimeridian; empty where there is no image.

        A polygon that goes around a pole goes along its parallel of 90 degrees. Longitudes are from -180 to 180.

        Args:
            decimals: to which coordinates are rounded; see `decimals_of`.

        Returns:
            (N,) valid polygons and multipolygons, counter-clockwise; what overlaps itself on the globe is merged.
        """
        found, numbers = self._plain_parts(decimals)
        parts, which = [found], [numbers]
        rest = np.setdiff1d(np.arange(len(self._owner)), np.concatenate([numbers, self._lost_parts, self._tiny]))
        for part in rest.tolist():
            parts.append(self._folded(part, decimals))
            which.append(np.full(len(parts[-1]), part))
        order = np.argsort(np.concatenate(which), kind="stable")
        return _gathered(np.concatenate(parts)[order], self._owner[np.concatenate(which)[order]], self._count)

    def _clip(self, polygons: NDArray[np.object_]) -> NDArray[np.object_]:
        image = self._georeference.image
        if image is None:
            return polygons
        shapely.prepare(image)
        self.clipped = ~(shapely.covers(image, polygons) | shapely.is_empty(polygons))
        if not self.clipped.any():
            return polygons
        polygons = polygons.copy()
        polygons[self.clipped] = [_areal(shape) for shape in shapely.intersection(polygons[self.clipped], image)]
        return polygons

    def _trace(self, parts: NDArray[np.object_]) -> None:
        """Find the pieces of all rings of single polygons."""
        rings, self._part = shapely.get_rings(parts, return_index=True)
        self._is_hole = np.diff(self._part, prepend=-1) == 0
        points, ring = shapely.get_coordinates(rings, return_index=True)
        inside = ring[1:] == ring[:-1]
        edge_ring = ring[1:][inside]
        found = self._georeference.lonlat(points)
        pieces = self._cut(points[:-1][inside], points[1:][inside], found[:-1][inside], found[1:][inside])
        off_grid = (points != np.rint(points)).any(axis=1)
        self._on_grid = np.bincount(ring, off_grid, minlength=len(rings)) == 0
        self._ring = edge_ring[pieces.edge]
        self._pieces = pieces
        # A point without an image that the map of images does not know of.
        known = np.isfinite(pieces.middle).all(axis=1) & np.isfinite(pieces.start).all(axis=1)
        self._lost_parts = np.unique(self._part[self._ring[~known]])
        self.clipped[self._owner[self._lost_parts]] = True
        self._winding = np.rint(np.bincount(self._ring, np.nan_to_num(pieces.width[:, 0]), len(rings)) / 360)

    def _cut(
        self, a: NDArray[np.float64], b: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
    ) -> _Pieces:
        """Halve edges from pixel ``a`` to ``b``, from lonlat ``start`` to ``end``, until each is nearly straight."""
        edge, at = np.arange(len(a)), np.zeros(len(a))
        done: list[tuple[NDArray[np.float64], ...]] = []
        for halving in range(_HALVINGS + 1):
            half = (a + b) / 2
            middle = self._georeference.lonlat(half)
            width = self._eastward(start, end)
            off, straight = self._off_chord(start, middle, end, width, 0.5)
            length = np.linalg.norm(b - a, axis=1)
            reach = self._distance(start, middle) + self._distance(middle, end)
            allowed = np.maximum(_TOLERANCE * reach / np.maximum(length, 1e-300), _NOISE)
            good = straight <= allowed
            # Pixels may be narrower across the edge than along it, as towards the rim of a disk.
            bent = np.flatnonzero(good & (straight > _SLIGHT * allowed))
            along = (b - a)[bent] / length[bent, None]
            beside = self._georeference.lonlat(half[bent] + along[:, ::-1] * [1, -1])
            across = _TOLERANCE * self._distance(middle[bent], beside)
            allowed[bent] = np.maximum(np.fmin(allowed[bent], across), _NOISE)
            good[bent] = straight[bent] <= allowed[bent]
            for fraction in (0.25, 0.75):
                long = np.flatnonzero(good & (length > _LONG))
                inner = self._georeference.lonlat(a[long] + fraction * (b - a)[long])
                _, bend = self._off_chord(start[long], inner, end[long], width[long], fraction)
                good[long] = bend <= allowed[long]
            # A piece shorter than the tolerance is within it, also where a map has no digits left.
            good |= ~(np.isfinite(straight) & np.isfinite(allowed)) | (length <= _TOLERANCE) | (halving == _HALVINGS)
            done.append(
                (edge[good], at[good], start[good], middle[good], end[good], np.stack([width, off], axis=1)[good])
            )
            if good.all():
                break
            rest = ~good
            a, b = np.concatenate([a[rest], half[rest]]), np.concatenate([half[rest], b[rest]])
            start, end = (
                np.concatenate([start[rest], middle[rest]]),
                np.concatenate([middle[rest], end[rest]]),
            )
            at = np.concatenate([at[rest], at[rest] + 0.5 ** (halving + 1)])
            edge = np.concatenate([edge[rest], edge[rest]])
        columns = [np.concatenate(column) for column in zip(*done, strict=True)]
        if len(done) > 1:
            order = np.lexsort((columns[1], columns[0]))
            columns = [column[order] for column in columns]
        numbers, _, begins, middles, ends, widths = columns
        return _Pieces(numbers, begins, middles, ends, widths)

    def _eastward(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        width = end[:, 0] - start[:, 0]
        return width if self._surface.degrees is not None else _wrapped(width)

    def _distance(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """Between points near to each other on the ground, degrees."""
        scale = np.cos(np.radians(np.minimum(np.abs(start[:, 1]), np.abs(end[:, 1]))))
        return np.asarray(np.hypot(self._eastward(start, end) * scale, end[:, 1] - start[:, 1]))

    def _off_chord(
        self,
        start: NDArray[np.float64],
        inner: NDArray[np.float64],
        end: NDArray[np.float64],
        width: NDArray[np.float64],
        fraction: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far a point of each piece lies from its chord: degrees of longitude, and degrees on the ground."""
        off = _wrapped(inner[:, 0] - start[:, 0] - fraction * width)
        latitude = start[:, 1] + fraction * (end[:, 1] - start[:, 1])
        scale = np.cos(np.radians(np.minimum(np.abs(inner[:, 1]), np.abs(latitude))))
        # Along a pole any longitude is near; what is meant there is the way that the map takes.
        scale[(np.abs(start[:, 1]) > _AT_POLE) & (np.abs(end[:, 1]) > _AT_POLE) & (np.abs(inner[:, 1]) > _AT_POLE)] = 1
        return off, np.hypot(off * scale, inner[:, 1] - latitude)

    def _part_areas(self) -> NDArray[np.float64]:
        """Area of each single polygon, square metres."""
        pieces, ring, count = self._pieces, self._ring, len(self._part)
        self._outside = np.zeros(count, bool)
        if not count:
            return np.zeros(0)
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        base = np.where(self._winding == 0, pieces.start[first, 1], np.copysign(90.0, self._winding))[ring]
        low, high = pieces.start[:, 1], pieces.end[:, 1]
        zone = np.zeros(len(ring))
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            zone += weight / 2 * self._surface.zone(base, low + (high - low) * (node + 1) / 2)
        width, off = np.radians(pieces.width).T
        # Between a parabola and its chord lie two thirds of the parallelogram of chord and height.
        rise, height = np.radians(high - low), np.radians(pieces.middle[:, 1] - (low + high) / 2)
        bulge = 2 / 3 * (width * height - rise * off) * self._surface.growth((low + high) / 2)
        # The polygon lies to the left of its rings, and a hole to the right.
        left = -np.bincount(ring, width * zone + bulge, minlength=count).astype(np.float64)
        self._outside = self._is_outside(left)
        beyond = np.where(self._is_hole, -1, 1) * (self._outside | (self._is_hole & (self._winding != 0)))
        left += self._surface.area * beyond
        return np.bincount(self._part, left, minlength=len(self._owner)).astype(np.float64)

    def _is_outside(self, left: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Rings whose polygon, or hole, is what they do not enclose on the map of longitude and latitude.

        So is the outline of all but a small part of the globe; not one that is too thin for its area to have a sign.
        """
        ring = self._ring
        wide = np.bincount(ring, np.abs(np.radians(self._pieces.width[:, 0])), minlength=len(left)) / 2
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        latitudes = self._pieces.start[:, 1]
        zone = self._surface.zone(latitudes[first][ring], latitudes)
        high = np.maximum.reduceat(zone, first) - np.minimum.reduceat(zone, first)
        return np.asarray((self._winding == 0) & (np.where(self._is_hole, -left, left) < -1e-3 * wide * high))

    @cached_property
    def _longitudes(self) -> NDArray[np.float64]:
        """Of the start of each piece, without a jump along a ring."""
        pieces = self._pieces
        if self._surface.degrees is not None:
            return pieces.start[:, 0]
        width = np.nan_to_num(pieces.width[:, 0])
        first = np.flatnonzero(np.diff(self._ring, prepend=-1))
        along = np.cumsum(width) - width
        along += (pieces.start[first, 0] - along[first])[self._ring]
        return np.asarray(pieces.start[:, 0] + 360 * np.round((along - pieces.start[:, 0]) / 360))

    def _plain_parts(self, decimals: int) -> tuple[NDArray[np.object_], NDArray[np.intp]]:
        """Single polygons that need no cut, and which parts they are; what rounding leaves nothing of is noted."""
        ring, count = self._ring, len(self._part)
        self._tiny = np.empty(0, np.intp)
        if not count:
            return np.empty(0, object), np.empty(0, np.intp)
        longitudes, nearly = self._longitudes, 0.5 * 10.0**-decimals
        first = np.flatnonzero(np.diff(ring, prepend=-1))
        lowest, highest = np.minimum.reduceat(longitudes, first), np.maximum.reduceat(longitudes, first)
        turns = np.floor((lowest + 180 + nearly) / 360)
        good = (highest - 360 * turns <= 180 + nearly) & (self._winding == 0) & ~self._outside
        part_good = np.ones(len(self._owner), bool)
        np.logical_and.at(part_good, self._part, good)
        part_good[self._lost_parts] = False
        chosen = np.flatnonzero(part_good)
        if not len(chosen):
            return np.empty(0, object), chosen
        latitudes = self._pieces.start[:, 1]
        points = np.stack([(longitudes - 360 * turns[ring]).clip(-180, 180), latitudes], axis=1).round(decimals) + 0.0
        kept = part_good[self._part]
        lengths = np.bincount(ring, minlength=count)[kept] + 1
        ends = np.cumsum(lengths)
        ring_ends = np.concatenate([[0], ends])
        index = np.repeat(first[kept] - ring_ends[:-1], lengths) + np.arange(ends[-1])
        index[ends - 1] = first[kept]
        part_ends = np.concatenate([[0], np.cumsum(np.bincount(self._part[kept], minlength=len(self._owner))[chosen])])
        made = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points[index], (ring_ends, part_ends))
        found = np.asarray(made, dtype=object)
        # Rounding may close what is narrower than the last decimal. Along the edges of pixels nothing is.
        far = np.maximum.reduceat(np.abs(latitudes), first) > _POLAR
        doubtful = np.bincount(self._part, far | ~self._on_grid, minlength=len(self._owner))[chosen] > 0
        doubtful |= self._georeference.image is not None
        doubtful[doubtful] = ~shapely.is_valid(found[doubtful])
        mended = [areal_parts(shapely.make_valid(found[broken])) for broken in np.flatnonzero(doubtful)]
        kept = [shapely.orient_polygons(parts) for parts in mended if len(parts)]
        owners = np.repeat(chosen[doubtful], [len(parts) for parts in mended])
        if not doubtful.any():
            return found, chosen
        order = np.argsort(np.concatenate([chosen[~doubtful], owners]), kind="stable")
        self._tiny = np.setdiff1d(chosen[doubtful], owners)
        every = np.concatenate([found[~doubtful], *kept])[order]
        return every, np.concatenate([chosen[~doubtful], owners])[order]

    def _folded(self, part: int, decimals: int) -> NDArray[np.object_]:
        """Single polygons (K,) of one that crosses the antimeridian or goes around a pole."""
        rings = []
        for number in np.flatnonzero(self._part == part).tolist():
            at = self._ring == number
            points = np.stack([self._longitudes[at], self._pieces.start[at, 1]], axis=1)
            rings.append(
                Ring(points, int(self._winding[number]), bool(self._is_hole[number]), bool(self._outside[number]))
            )
        return fold(rings, decimals)


def pixel_size(georeference: Georeference) -> float | None:
    """Edge of a pixel, metres, in the middle of a scene or where it has an image; None if it has none anywhere.

    Args:
        georeference: with a CRS and a shape.

    Raises:
        GeoError: the CRS has no surface.
    """
    height, width = georeference.shape or (1, 1)
    corners = np.array([[width // 2, height // 2]], np.float64)
    if isinstance(georeference.surface, Globe):
        corners = np.concatenate([corners, np.minimum(np.floor(georeference.found), [width - 1, height - 1])])
    for corner in corners:
        (area,) = Ground(np.array([shapely.box(*corner, *(corner + 1))]), georeference).areas
        if area > 0:
            return float(np.sqrt(area))
    return None


def decimals_of(georeference: Georeference) -> int:
    """Decimals of degrees that round by no more than an eightieth of a pixel, and to a centimetre at most."""
    steps = georeference.steps
    # A pixel may be a narrow parallelogram: its height counts.
    height = np.abs(np.linalg.det(steps)) / np.hypot(*steps.transpose(2, 0, 1)).max(axis=1, initial=1e-300)
    if not height.size or not height.max() > 0:
        return _DECIMALS[0]
    # Where a map ends, as at the pole of an oval one, pixels have no height at all.
    least = max(height.min(), height.max() / 100)
    return int(np.clip(np.ceil(-np.log10(_FINE * least)), *_DECIMALS))


def _wrapped(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of longitude the shorter way, -180 to 180."""
    return np.asarray(degrees - 360 * np.round(degrees / 360))


def _areal(shape: Any) -> Any:
    """The polygons of a shape as one polygon or multipolygon."""
    parts = areal_parts(shape)
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts.tolist())


def _gathered(parts: NDArray[np.object_], owners: NDArray[np.intp], count: int) -> NDArray[np.object_]:
    """Polygons, and multipolygons of several parts, of each owner; an empty polygon without a part."""
    found = np.full(count, shapely.Polygon(), dtype=object)
    number = np.bincount(owners, minlength=count)
    single = number[owners] == 1
    found[owners[single]] = parts[single]
    shapely.multipolygons(parts[~single], indices=owners[~single], out=found)
    return found
