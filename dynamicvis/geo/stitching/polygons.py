"""Regions of a class raster, and masks of objects, as polygons along the edges of their pixels."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.vectors import Features
from dynamicvis.geo.stitching.outlines import label_regions, simple_rings, trace_outlines


def class_polygons(
    classes_raster: str | Path,
    confidence_raster: str | Path | None = None,
    *,
    skip: Collection[int] = (),
    chunk: int = 1024,
) -> Iterator[Features]:
    """Polygons of the connected regions of equal class: pixels are neighbours when they share an edge.

    The raster is read in square chunks. A region leaves as soon as all of its pixels were read; until then only its
    outline is kept, so memory follows the outlines of the regions that cross the chunks' borders and not the size of
    the raster. The polygons are the same for every chunk size, their order is not.

    Args:
        classes_raster: class indices in its first band; its NoData, by value or mask, is in no polygon.
        confidence_raster: 0 to 255 in its first band, of the same size.
        skip: classes that get no polygons, such as the background.
        chunk: edge of a chunk, pixels, at least 1.

    Yields:
        Batches in pixel coordinates, at most one per chunk. The score is the mean confidence of the region's pixels, as
        0 to 1; NaN without ``confidence_raster``.

    Raises:
        GeoError: a raster that cannot be read, or the two differ in size.
    """
    try:
        with _open(classes_raster) as classes:
            if confidence_raster is None:
                yield from _polygons(classes, None, frozenset(skip), chunk)
                return
            with _open(confidence_raster) as confidence:
                if classes.shape != confidence.shape:
                    raise GeoError(
                        f"{confidence_raster} and {classes_raster} differ in size; give rasters of one scene"
                    )
                yield from _polygons(classes, confidence, frozenset(skip), chunk)
    except RasterioError as error:
        raise GeoError(f"{classes_raster} or its confidence cannot be read ({error}); make them again") from error


def mask_polygons(masks: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> NDArray[np.object_]:
    """Outlines of masks along the edges of their pixels.

    Args:
        masks: (N, height, width), of one tile.
        corner: column and row of the tile's top left pixel in the raster.

    Returns:
        (N,) polygons, multipolygons for masks of several parts, in pixels of the raster; an empty mask gives an empty
        polygon.
    """
    found = np.full(len(masks), shapely.Polygon(), dtype=object)
    for index, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        padded = np.pad(part.astype(np.int32) - 1, 1, constant_values=-1)
        labels, count = label_regions(padded)
        pieces = trace_outlines(padded, labels)
        rings = _shift(pieces.points, (corner[0] + columns[0], corner[1] + rows[0]))
        parts = _assemble(rings, pieces.offsets, pieces.labels, pieces.pinched, count)
        found[index] = parts[0] if count == 1 else shapely.multipolygons(parts)
    return found


class _Chain(NamedTuple):
    """A piece of an outline inside one chunk; the end is where the next piece starts."""

    points: NDArray[np.int32]  # (M, 2) column and row in the raster, the end left out
    first: int  # direction of the first edge
    end: tuple[int, int, int]  # column, row and direction of the edge that follows
    last: int  # direction of the last edge
    pinched: bool


@dataclass
class _Region:
    """A region of which some pixels are still to be read."""

    label: int
    pixels: int = 0
    confidence: float = 0.0
    pending: int = 0  # edges of pixels that it shares with chunks to come
    chains: dict[tuple[int, int, int], _Chain] = field(default_factory=dict)  # by start: column, row, direction
    rings: list[tuple[NDArray[np.int32], bool]] = field(default_factory=list)
    names: list[int] = field(default_factory=list)  # ids that the chunks know it by

    def absorb(self, other: _Region) -> None:
        self.pixels += other.pixels
        self.confidence += other.confidence
        self.pending += other.pending
        self.chains |= other.chains
        self.rings += other.rings
        self.names += other.names


def _polygons(classes: Any, confidence: Any, skip: frozenset[int], chunk: int) -> Iterator[Features]:
    height, width = classes.shape
    stitcher = _Stitcher(width)
    for top in range(0, height, chunk):
        for left in range(0, width, chunk):
            bottom, right = min(top + chunk, height), min(left + chunk, width)
            padded = _read_classes(classes, skip, left, top, right, bottom)
            if (padded[1:-1, 1:-1] < 0).all():
                continue
            weights = None
            if confidence is not None:
                weights = confidence.read(1, window=Window(left, top, right - left, bottom - top))
            features = stitcher.add(padded, weights, left, top)
            if len(features):
                yield features


def _open(path: str | Path) -> Any:
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        return rasterio.open(path)


def _read_classes(
    dataset: Any, skip: frozenset[int], left: int, top: int, right: int, bottom: int
) -> NDArray[np.int32]:
    """Classes of a chunk and of the pixels around it, -1 where there is none."""
    height, width = dataset.shape
    part = (max(left - 1, 0), max(top - 1, 0), min(right + 1, width), min(bottom + 1, height))
    window = Window(part[0], part[1], part[2] - part[0], part[3] - part[1])
    values = dataset.read(1, window=window).astype(np.int32)
    values[dataset.read_masks(1, window=window) == 0] = -1
    if skip:
        values[np.isin(values, [*skip])] = -1
    padded = np.full((bottom - top + 2, right - left + 2), -1, np.int32)
    down, along = part[1] - (top - 1), part[0] - (left - 1)
    padded[down : down + values.shape[0], along : along + values.shape[1]] = values
    return padded


class _Stitcher:
    """Puts the regions of chunks together, which come row by row."""

    def __init__(self, width: int) -> None:
        self._above = np.full(width, -1, np.int64)  # ids of the regions in the last row of the chunks above
        self._before = np.empty(0, np.int64)  # likewise in the last column of the chunk before
        self._regions: dict[int, _Region] = {}  # open ones by id; one region may have several
        self._next = 0

    def add(self, padded: NDArray[np.int32], weights: NDArray[np.uint8] | None, left: int, top: int) -> Features:
        """Take a chunk with the classes around it; gives the regions that it completes."""
        inner = padded[1:-1, 1:-1]
        labels, count = label_regions(padded)
        pieces = trace_outlines(padded, labels)
        points = _shift(pieces.points, (left, top))
        flat = labels.ravel() + 1
        pixels = np.bincount(flat, minlength=count + 1)[1:]
        sums = np.full(count, np.nan)
        if weights is not None:
            sums = np.bincount(flat, weights.ravel(), minlength=count + 1)[1:]
        label = np.empty(count, np.int64)
        label[labels[labels >= 0]] = inner[labels >= 0]

        # Which regions go on across which border.
        onward = {
            "left": (padded[1:-1, 0] == inner[:, 0]) & (inner[:, 0] >= 0),
            "top": (padded[0, 1:-1] == inner[0]) & (inner[0] >= 0),
            "right": (padded[1:-1, -1] == inner[:, -1]) & (inner[:, -1] >= 0),
            "bottom": (padded[-1, 1:-1] == inner[-1]) & (inner[-1] >= 0),
        }
        sides = {"left": labels[:, 0], "top": labels[0], "right": labels[:, -1], "bottom": labels[-1]}
        is_open = np.zeros(count, bool)
        for side, crossing in onward.items():
            is_open[sides[side][crossing]] = True

        whole = ~is_open[pieces.labels]
        chosen = np.flatnonzero(whole)
        renumbered = np.cumsum(~is_open) - 1
        rings, offsets = _take_pieces(points, pieces.offsets, chosen)
        done = _assemble(
            rings, offsets, renumbered[pieces.labels[chosen]], pieces.pinched[chosen], int((~is_open).sum())
        )
        features = Features(done, label[~is_open], sums[~is_open] / pixels[~is_open] / 255)

        opened = np.flatnonzero(is_open)
        ids = np.full(count, -1, np.int64)
        ids[opened] = self._next + np.arange(len(opened))
        self._next += len(opened)
        for region in opened:
            name = int(ids[region])
            self._regions[name] = _Region(int(label[region]), int(pixels[region]), float(sums[region]), names=[name])
        for side in ("right", "bottom"):
            for region, edges in zip(*np.unique(sides[side][onward[side]], return_counts=True), strict=True):
                self._regions[int(ids[region])].pending += int(edges)
        for piece in np.flatnonzero(~whole).tolist():
            self._keep(pieces, points, piece, int(ids[pieces.labels[piece]]), left, top)

        touched = {name for name in ids[opened].tolist()}
        along = slice(left, left + inner.shape[1])
        for side, others in (("left", self._before), ("top", self._above[along])):
            crossing = onward[side]
            if crossing.any():
                pairs = np.stack([others[crossing], ids[sides[side][crossing]]], axis=1)
                for (first, second), edges in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
                    self._join(int(first), int(second), int(edges))
        self._above[along] = np.where(labels[-1] >= 0, ids[labels[-1]], -1)
        self._before = np.where(labels[:, -1] >= 0, ids[labels[:, -1]], -1)
        return _concatenate([features, *self._close(touched)])

    def _keep(self, pieces: Any, points: NDArray[np.int32], piece: int, name: int, left: int, top: int) -> None:
        region = self._regions[name]
        own = points[pieces.offsets[piece] : pieces.offsets[piece + 1]].copy()
        pinched = bool(pieces.pinched[piece])
        if pieces.ends[piece, 2] < 0:
            region.rings.append((own, pinched))
            return
        column, row, direction = (int(value) for value in pieces.ends[piece])
        first, last = (int(value) for value in pieces.directions[piece])
        chain = _Chain(own, first, (column + left, row + top, direction), last, pinched)
        region.chains[int(own[0, 0]), int(own[0, 1]), first] = chain

    def _join(self, first: int, second: int, edges: int) -> None:
        one, other = self._regions[first], self._regions[second]
        one.pending -= edges
        if one is other:
            return
        if len(one.chains) + len(one.rings) + len(one.names) < len(other.chains) + len(other.rings) + len(other.names):
            one, other = other, one
        one.absorb(other)
        for name in other.names:
            self._regions[name] = one

    def _close(self, names: Collection[int]) -> Iterator[Features]:
        for name in sorted(names):
            region = self._regions.get(name)
            if region is None or region.pending:
                continue
            for known in region.names:
                del self._regions[known]
            rings = [*region.rings, *_close_chains(region.chains)]
            offsets = np.cumsum([0, *(len(ring) for ring, _ in rings)])
            polygon = _assemble(
                np.concatenate([ring for ring, _ in rings]),
                offsets,
                np.zeros(len(rings), np.int64),
                np.array([pinched for _, pinched in rings]),
                1,
            )
            score = region.confidence / region.pixels / 255
            yield Features(polygon, np.array([region.label]), np.array([score]))


def _close_chains(chains: dict[tuple[int, int, int], _Chain]) -> Iterator[tuple[NDArray[np.int32], bool]]:
    """Chains put end to start until each is a ring again; points that are no corners are left out."""
    while chains:
        start, chain = chains.popitem()
        parts, pinched, ring = [], False, [chain]
        while chain.end != start:
            chain = chains.pop(chain.end)
            ring.append(chain)
        before = ring[-1].last
        for chain in ring:
            parts.append(chain.points if chain.first != before else chain.points[1:])
            pinched |= chain.pinched
            before = chain.last
        yield np.concatenate(parts), pinched


def _shift(points: NDArray[np.int32], corner: tuple[Any, Any]) -> NDArray[np.int32]:
    return points + np.array(corner, np.int32)


def _take_pieces(
    points: NDArray[np.int32], offsets: NDArray[np.int64], chosen: NDArray[np.intp]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Points and offsets of some pieces, in the order of ``chosen``."""
    lengths = np.diff(offsets)[chosen]
    ends = np.cumsum(lengths)
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[:-1][chosen] - (ends - lengths), lengths)
    return points[index], np.concatenate([[0], ends]).astype(np.int64)


def _assemble(
    points: NDArray[np.int32],
    offsets: NDArray[np.int64],
    labels: NDArray[np.int64],
    pinched: NDArray[np.bool_],
    count: int,
) -> NDArray[np.object_]:
    """Polygons (count,) of closed rings with the index of their polygon; each has one ring that is no hole."""
    if not count:
        return np.empty(0, dtype=object)
    if pinched.any():
        points, offsets, labels = _split_pinched(points, offsets, labels, pinched)
    lengths = np.diff(offsets)
    x, y = points.astype(np.int64).T
    ring = np.repeat(np.arange(len(lengths)), lengths)
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    # Integers: exact. Relative to the ring's first point, so that they do not overflow.
    x0, y0 = x[offsets[:-1]][ring], y[offsets[:-1]][ring]
    cross = (x - x0) * (y[following] - y0) - (x[following] - x0) * (y - y0)
    is_hole = np.add.reduceat(cross, offsets[:-1]) < 0
    order = np.lexsort((is_hole, labels))
    points, offsets = _take_pieces(points, offsets, order)
    lengths = np.diff(offsets)
    # A ring's first point once more at its end.
    index = np.arange(len(points) + len(lengths)) - np.repeat(np.arange(len(lengths)), lengths + 1)
    closing = np.cumsum(lengths + 1) - 1
    index[closing] = offsets[:-1]
    rings = np.concatenate([[0], closing + 1])
    polygons = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))])
    found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points[index].astype(np.float64), (rings, polygons))
    return np.asarray(found, dtype=object)


def _split_pinched(
    points: NDArray[np.int32], offsets: NDArray[np.int64], labels: NDArray[np.int64], pinched: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Cut rings that meet themselves at a point into rings that do not, as OGC's simple features want them."""
    kept, kept_offsets = _take_pieces(points, offsets, np.flatnonzero(~pinched))
    parts, lengths, owners = [kept], [np.diff(kept_offsets)], [labels[~pinched]]
    for index in np.flatnonzero(pinched):
        ring = points[offsets[index] : offsets[index + 1]]
        _, vertex = np.unique(ring, axis=0, return_inverse=True)
        order, cuts = simple_rings(vertex.ravel())
        parts.append(ring[order])
        lengths.append(np.diff(cuts))
        owners.append(np.full(len(cuts) - 1, labels[index]))
    ends = np.cumsum(np.concatenate(lengths))
    return np.concatenate(parts), np.concatenate([[0], ends]), np.concatenate(owners)


def _concatenate(batches: list[Features]) -> Features:
    return Features(
        np.concatenate([batch.polygons for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.scores for batch in batches]),
    )
