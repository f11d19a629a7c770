"""Two scenes of one place as one source: what change detection reads."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.georeference import to_map
from dynamicvis.geo.scene.projection import project
from dynamicvis.geo.scene.reading import one_sentence, without_warnings
from dynamicvis.geo.scene.source import Scene, read_padded
from dynamicvis.geo.scene.surface import Globe, surface_of
from dynamicvis.geo.stitching.grid import Extent

_SHIFT = 0.01  # pixels by which two grids may differ anywhere and still be one
_EDGE_POINTS = 33  # of each side of an outline, whose edges may be curved in another CRS
_SET_PLACE = "set its place with `gdal_edit.py -a_srs EPSG:<code> -a_ullr <ulx> <uly> <lrx> <lry>`"
_MARGIN = 4  # pixels of AFTER around a window, for interpolation


class ScenePair:
    """BEFORE and AFTER on BEFORE's grid, where both have pixels; read as one `Scene` with twice the bands.

    Attributes:
        before, after: the two scenes; closing the pair closes both.
        path, crs, affine, gsd, card: as of `Scene`; those of BEFORE, with the corner of the common part.
        height, width: pixels of the common part.
        count, bands, dtypes, descriptions, nodatavals, fill: as of `Scene`, BEFORE's bands first, then AFTER's.
        colormap: None.
        has_mask, notes: of both.
        aligned: whether AFTER is resampled to BEFORE's grid.

    Args:
        before, after: scenes with equally many bands.
        align: resample AFTER (bilinear) to BEFORE's grid while it is read, when it lies on another one. What is data
            is decided by AFTER's pixel at the centre of each pixel, so that no data is made up around holes or beyond
            AFTER's edge.

    Raises:
        GeoError: they have no pixel in common, or lie on different grids and ``align`` is not given.
    """

    def __init__(self, before: Scene, after: Scene, *, align: bool = False) -> None:
        self.before, self.after = before, after
        if before.count != after.count:
            raise GeoError(
                f"{before.path} is read in {before.count} bands and {after.path} in {after.count}; "
                "choose the same bands of both by -b"
            )
        self._after_affine = _on_turn_of(before, after)
        reason = _difference(before, after, self._after_affine)
        self.aligned = reason is not None
        if reason is not None and not align:
            raise GeoError(
                f"{before.path} and {after.path} lie on different grids: {reason}; add --align to resample the second "
                "to the grid of the first"
            )
        common = self._common_part()
        self._corner = (common.left, common.top)
        self.height, self.width = common.bottom - common.top, common.right - common.left
        self.path = before.path
        self.card = before.card
        self.crs = before.crs
        self.affine = before.affine @ Affine.translation(common.left, common.top)
        self.gsd = before.gsd
        self.count = before.count + after.count
        self.bands = [*before.bands, *after.bands]
        self.dtypes = before.dtypes + after.dtypes
        self.descriptions = before.descriptions + after.descriptions
        self.nodatavals = before.nodatavals + after.nodatavals
        self.fill = before.fill + after.fill
        self.colormap = None
        self.has_mask = before.has_mask or after.has_mask
        self.notes = [*before.notes, *(note for note in after.notes if note not in before.notes)]
        if self.aligned:
            self._scales = self._resampling_factors()
            self.notes.append(f"{after.path} is resampled to the grid of {before.path}: {reason}")

    def __enter__(self) -> ScenePair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both scenes."""
        self.before.close()
        self.after.close()

    @property
    def georeferenced(self) -> bool:
        """Whether the pair has a place on a map."""
        return self.crs is not None

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the pixels that are read, as JSON; see `Scene.fingerprint`."""
        window = [*self._corner, self.width, self.height]
        return {
            "before": self.before.fingerprint(),
            "after": self.after.fingerprint(),
            "aligned": self.aligned,
            "window": window,
        }

    def decoding_memory(self) -> int:
        """Of both; see `Scene.decoding_memory`."""
        return self.before.decoding_memory() + self.after.decoding_memory()

    def read(self, window: Extent) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read one window of both; see `Scene.read`. A pixel is data where it is data in both."""
        return read_padded(self._read_part, window, (self.height, self.width), self.fill)

    def read_resampled(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the whole common part as ``height`` x ``width`` pixels; see `Scene.read_resampled`."""
        return self._read_part(Extent(0, 0, self.width, self.height), (height, width))

    def _read_part(
        self, part: Extent, shape: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        part = _moved(part, *self._corner)
        if shape is None:
            values, valid = self.before.read(part)
        else:
            values, valid = self.before.read_resampled(*shape, part)
        if self.aligned:
            later, later_valid = self._warp(part, shape or valid.shape)
        else:
            there = _moved(part, *self._offset)
            later, later_valid = self.after.read_resampled(*shape, there) if shape else self.after.read(there)
        return np.concatenate([values, later]), valid & later_valid

    def _common_part(self) -> Extent:
        """Pixels of BEFORE that AFTER may cover."""
        before, after = self.before, self.after
        if self.aligned:
            outline = self._to_before(_outline(Extent(0, 0, after.width, after.height)))
            low = np.floor(outline.min(axis=0) + _SHIFT).astype(int)
            high = np.ceil(outline.max(axis=0) - _SHIFT).astype(int)
        else:
            shift = _offset(before, self._after_affine)
            low = np.array(shift)
            high = low + np.array([after.width, after.height])
            self._offset = (-shift[0], -shift[1])
        low, high = np.maximum(low, 0), np.minimum(high, (before.width, before.height))
        if (low >= high).any():
            raise GeoError(f"{before.path} and {after.path} have no pixel in common; give two scenes of one place")
        return Extent(int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def _to_before(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        projected = project(to_map(points, self._after_affine), self.after.crs, self.before.crs, self.after.path)
        middle = to_map(np.array([self.before.width / 2, self.before.height / 2]), self.before.affine)
        return to_map(_near_to(projected, middle[0], _full_turn(self.before)), ~self.before.affine)

    def _to_after(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        projected = project(to_map(points, self.before.affine), self.before.crs, self.after.crs, self.before.path)
        middle = to_map(np.array([self.after.width / 2, self.after.height / 2]), self._after_affine)
        return to_map(_near_to(projected, middle[0], _full_turn(self.after)), ~self._after_affine)

    def _resampling_factors(self) -> tuple[float, float]:
        """Pixels of BEFORE along one of AFTER, in x and in y; one pair of numbers for all windows, so all agree."""
        x, y = self._corner[0] + self.width / 2, self._corner[1] + self.height / 2
        middle, right, below = self._to_after(np.array([(x, y), (x + 1, y), (x, y + 1)]))
        steps = np.hypot(right - middle, below - middle)
        return float(1 / steps[0]), float(1 / steps[1])

    def _warp(self, part: Extent, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """AFTER on BEFORE's pixels ``part``, resampled to ``shape``."""
        outline = self._to_after(_outline(part))
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - self._margin(0), 0)
        high = np.ceil(outline.max(axis=0)).astype(int) + self._margin(0)
        high = np.minimum(high, (self.after.width, self.after.height))
        values = np.full((self.after.count, *shape), np.nan, np.float32)
        inside = np.zeros(shape, np.uint8)
        if (low >= high).any():
            return values, inside.astype(bool)
        source = Extent(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        zoom = (shape[1] / (part.right - part.left), shape[0] / (part.bottom - part.top))
        read, valid = self._read_after(source, zoom)
        read[:, ~valid] = np.nan
        step = ((source.right - source.left) / valid.shape[1], (source.bottom - source.top) / valid.shape[0])
        options = {
            "src_transform": self._after_affine @ Affine.translation(source.left, source.top) @ Affine.scale(*step),
            "src_crs": self.after.crs,
            "dst_transform": self.before.affine
            @ Affine.translation(part.left, part.top)
            @ Affine.scale(1 / zoom[0], 1 / zoom[1]),
            "dst_crs": self.before.crs,
            "tolerance": 0,  # each pixel at its exact place, whatever window it is read in
        }
        factors = {
            name: repr(min(factor * own * along, 1.0))
            for name, factor, own, along in zip(("XSCALE", "YSCALE"), self._scales, step, zoom, strict=True)
        }
        with (
            one_sentence(self.after.path, f"cannot be resampled to the grid of {self.before.path}"),
            without_warnings(NotGeoreferencedWarning),  # of the arrays in memory that rasterio makes files of
        ):
            reproject(
                read, values, src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling.bilinear, **factors, **options
            )
            reproject(valid.astype(np.uint8), inside, resampling=Resampling.nearest, **options)
        return values, (inside > 0) & np.isfinite(values).all(axis=0)

    def _margin(self, axis: int) -> int:
        return int(_MARGIN * max(1.0, 1 / self._scales[axis]))

    def _read_after(self, source: Extent, zoom: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if zoom == (1.0, 1.0):
            return self.after.read(source)
        wide, high = source.right - source.left, source.bottom - source.top
        # As fine as the picture asks for, never finer than the file.
        columns = min(wide, max(1, round(wide * zoom[0] * self._scales[0])))
        rows = min(high, max(1, round(high * zoom[1] * self._scales[1])))
        return self.after.read_resampled(rows, columns, source)


def _difference(before: Scene, after: Scene, after_affine: Affine) -> str | None:
    """Why the pixels of two scenes do not lie on each other, None when they do.

    Raises:
        GeoError: at least one has no place on a map, so that nothing can bring them together.
    """
    if before.georeferenced != after.georeferenced:
        lost = after if before.georeferenced else before
        raise GeoError(f"{lost.path} has no CRS or no affine, so it cannot be laid over the other scene; {_SET_PLACE}")
    if not before.georeferenced:
        sizes = [f"{scene.width} x {scene.height}" for scene in (before, after)]
        if sizes[0] == sizes[1]:
            return None
        raise GeoError(
            f"{before.path} and {after.path} have no CRS, {sizes[0]} and {sizes[1]} pixels, so nothing says how they "
            f"lie on each other; {_SET_PLACE}"
        )
    if before.crs != after.crs:
        return f"the CRS is {_name(before.crs)} for the first and {_name(after.crs)} for the second"
    steps = to_map(to_map(np.array([(0.0, 0), (1, 0), (0, 1)]), after_affine), ~before.affine)
    drift = np.abs(steps[1:] - steps[0] - np.eye(2)) * np.array([[after.width], [after.height]])
    if drift.max() > _SHIFT:
        sizes = [_pixel_size(scene) for scene in (before, after)]
        if sizes[0] == sizes[1]:
            return "their axes differ by a rotation or a flip of the affine"
        return f"pixels are {sizes[0]} in the first and {sizes[1]} in the second"
    shift = np.abs(steps[0] - np.round(steps[0]))
    if shift.max() > _SHIFT:
        return f"they are shifted by {shift[0]:.2f} columns and {shift[1]:.2f} rows, which are no whole pixels"
    return None


def _pixel_size(scene: Scene) -> str:
    """Width and height in units of the CRS."""
    affine, crs = scene.affine, scene.crs
    unit = "pixels" if crs is None else "degrees" if crs.is_geographic else crs.linear_units
    return f"{np.hypot(affine.a, affine.d):.8g} x {np.hypot(affine.b, affine.e):.8g} {unit}"


def _full_turn(scene: Scene) -> float | None:
    """Once around the globe in the units of a CRS whose coordinates are longitudes; None for another one."""
    if scene.crs is None or not scene.crs.is_geographic:
        return None
    surface = surface_of(scene.crs, scene.path)
    degrees = surface.degrees if isinstance(surface, Globe) else None
    return None if degrees is None else 360 / degrees


def _near_to(points: NDArray[np.float64], x: float, turn: float | None) -> NDArray[np.float64]:
    """Points with the name of their meridian that is nearest to ``x``: 200 and -160 degrees are one."""
    if turn is None:
        return points
    moved = points.copy()
    moved[..., 0] += turn * np.round((x - points[..., 0]) / turn)
    return moved


def _on_turn_of(before: Scene, after: Scene) -> Affine:
    """The affine of AFTER in the longitudes that BEFORE counts in, where the CRS of both has some."""
    if before.crs is None or before.crs != after.crs:
        return after.affine
    middles = [to_map(np.array([scene.width / 2, scene.height / 2]), scene.affine) for scene in (before, after)]
    x = _near_to(middles[1], middles[0][0], _full_turn(before))[0] - middles[1][0]
    affine = after.affine
    return Affine(affine.a, affine.b, affine.c + x, affine.d, affine.e, affine.f)


def _offset(before: Scene, after_affine: Affine) -> tuple[int, int]:
    """Column and row of BEFORE where AFTER begins."""
    if not before.georeferenced:
        return 0, 0
    corner = to_map(to_map(np.zeros((1, 2)), after_affine), ~before.affine)[0]
    return round(corner[0]), round(corner[1])


def _name(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt().partition('"')[2].partition('"')[0] or "one without a name"


def _outline(part: Extent) -> NDArray[np.float64]:
    """Points along the edges of a rectangle, (N, 2) columns and rows."""
    along = np.linspace(0, 1, _EDGE_POINTS)
    x = part.left + along * (part.right - part.left)
    y = part.top + along * (part.bottom - part.top)
    sides = [(x, np.full_like(x, part.top)), (x, np.full_like(x, part.bottom))]
    sides += [(np.full_like(y, part.left), y), (np.full_like(y, part.right), y)]
    return np.concatenate([np.stack(side, axis=1) for side in sides])


def _moved(part: Extent, columns: int, rows: int) -> Extent:
    return Extent(part.left + columns, part.top + rows, part.right + columns, part.bottom + rows)
