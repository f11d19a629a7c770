"""What the coordinates of a CRS lie on: the Earth, another celestial body, or a plane of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from dynamicvis.geo.errors import GeoError

_EARTH = 6378137.0  # equatorial radius, metres
_SAME_BODY = 0.02  # relative difference of radii; all ellipsoids of the Earth are within 0.002
# For integrals from 0 to 1: exact to 1e-12 for ellipsoids as flat as planets are.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(6) + np.array([[1], [0]])) / 2


@dataclass(frozen=True)
class Plane:
    """A plane without a place on a celestial body: a local or engineering CRS.

    Attributes:
        name: of the CRS.
        metres: of one unit of its coordinates.
    """

    name: str
    metres: float


@dataclass(frozen=True)
class Globe:
    """An ellipsoid of revolution.

    Attributes:
        name: of the CRS.
        lonlat: CRS of longitude and latitude, degrees: EPSG:4326 on the Earth, the body's own elsewhere.
        body: the datum of a celestial body other than the Earth; empty for the Earth.
        radius: equatorial, metres.
        eccentricity: 0 for a sphere, below 1.
        degrees: of one unit of the CRS's coordinates where they are longitude and latitude, else None.
    """

    name: str
    lonlat: Any
    body: str
    radius: float
    eccentricity: float
    degrees: float | None

    def zone(self, base: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area between two parallels for each radian of longitude, square metres; negative south of the base.

        Exact to the last digits also where both are near to each other or to a pole.

        Args:
            base, latitude: degrees.
        """
        low, half = np.radians(base), np.radians(latitude - base) / 2
        sine, rise = np.sin(low), 2 * np.cos(low + half) * np.sin(half)
        total = sum(
            weight / (1 - (self.eccentricity * (sine + rise * node)) ** 2) ** 2
            for node, weight in zip(_NODES, _WEIGHTS, strict=True)
        )
        return np.asarray(self.radius**2 * (1 - self.eccentricity**2) * rise * total)

    def growth(self, latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of `zone` for each radian of latitude, square metres."""
        sine, cosine = np.sin(np.radians(latitude)), np.cos(np.radians(latitude))
        squared = self.eccentricity**2
        return np.asarray(self.radius**2 * (1 - squared) * cosine / (1 - squared * sine**2) ** 2)

    @property
    def area(self) -> float:
        """Of the whole surface, square metres."""
        return float(2 * math.pi * self.zone(np.array(-90.0), np.array(90.0)))


def surface_of(crs: CRS, name: str) -> Globe | Plane:
    """What the coordinates of a CRS lie on.

    Args:
        crs: rasterio CRS.
        name: the file it belongs to, for the message.

    Raises:
        GeoError: its coordinates say nothing about a place on a surface: heights, or coordinates in space.
    """
    found = _surface(crs.to_wkt(version="WKT2_2019"))
    if isinstance(found, str):
        raise GeoError(
            f"{name}: its CRS {found}, so its pixels have no place on a map; set the right one with "
            "`gdal_edit.py -a_srs EPSG:<code>`"
        )
    return found


@lru_cache(maxsize=64)
def _surface(wkt: str) -> Globe | Plane | str:
    """The surface of a CRS, or why there is none."""
    crs = CRS.from_wkt(wkt)
    try:
        document = crs.to_dict(projjson=True)
    except (CPLE_BaseError, CRSError):
        document = {}
    described = _horizontal(document)
    name, kind = str(described.get("name", "")), str(described.get("type", ""))
    if "Engineering" in kind:
        return Plane(name, float(crs.units_factor[1]))
    if kind == "GeodeticCRS" and not crs.is_geographic:
        return f"'{name}' is geocentric (X, Y and Z in space)"
    base = described
    while "base_crs" in base:
        base = base["base_crs"]
    ellipsoid = base.get("datum", base.get("datum_ensemble", {})).get("ellipsoid")
    if not ellipsoid:
        return f"'{name}' has no horizontal coordinates ({kind or 'of an unknown kind'})"
    radius = _number(ellipsoid.get("radius", ellipsoid.get("semi_major_axis", 0)))
    eccentricity = _eccentricity(ellipsoid, radius)
    degrees = math.degrees(crs.units_factor[1]) if kind in ("GeographicCRS", "GeodeticCRS") else None
    if abs(radius / _EARTH - 1) < _SAME_BODY:
        # Areas are those on WGS 84, to which longitude and latitude refer.
        return Globe(name, CRS.from_epsg(4326), "", _EARTH, 0.0818191908426215, degrees)
    own = {"$schema": document["$schema"], **base}
    body = str(base.get("datum", {}).get("name") or "unknown")
    return Globe(name, CRS.from_user_input(json.dumps(own)), body, radius, eccentricity, degrees)


def _horizontal(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a CRS that places points on a surface: without height, and without a shift to another datum."""
    while True:
        if "components" in document:
            document = document["components"][0]
        elif "source_crs" in document:
            document = document["source_crs"]
        else:
            return document


def _number(value: Any) -> float:
    """A length in PROJJSON, metres."""
    if isinstance(value, Mapping):
        unit = value.get("unit")
        factor = unit.get("conversion_factor", 1.0) if isinstance(unit, Mapping) else 1.0
        return float(value["value"]) * float(factor)
    return float(value)


def _eccentricity(ellipsoid: Mapping[str, Any], radius: float) -> float:
    if "semi_minor_axis" in ellipsoid:
        return math.sqrt(max(1 - (_number(ellipsoid["semi_minor_axis"]) / radius) ** 2, 0.0))
    inverse = float(ellipsoid.get("inverse_flattening", 0))
    return math.sqrt((2 - 1 / inverse) / inverse) if inverse else 0.0
