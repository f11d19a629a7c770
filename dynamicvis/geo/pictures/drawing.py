"""Outlines of objects on a picture: thin lines with a dark halo, drawn as they stream by."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dynamicvis.geo.pictures.layers import ObjectLayer
from dynamicvis.geo.pictures.rendering import rgb

_HALO = (0, 0, 0, 255)
_FILL_ALPHA = 90
_SMALL = 16.0  # an object with a shorter side than this, pixels of the picture, has a line of one pixel, else of two
_TINY = 3.0  # one with no longer side than this is a square of two pixels


class _Sketch:
    """Three indexed pictures, composed at the end, so that no halo or fill ever lies on a line."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (width, height)
        self.layers = {name: Image.new("L", self.size) for name in ("fill", "halo", "line")}
        self.pens = {name: ImageDraw.Draw(layer) for name, layer in self.layers.items()}

    def array(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(self.layers[name])


def draw_objects(
    picture: NDArray[np.uint8], layer: ObjectLayer, scale: tuple[float, float], colors: tuple[str, ...]
) -> NDArray[np.int64]:
    """Draw the outlines of all objects of a layer on an RGBA picture (height, width, 4), in place.

    An object too small to have an outline becomes a dot, so none disappears.

    Args:
        scale: pixels of the picture in one of the scene, along x and y.
        colors: one for each class.

    Returns:
        Number of objects of each class.
    """
    height, width = picture.shape[:2]
    sketch = _Sketch(height, width)
    counts = np.zeros(len(colors), np.int64)
    for batch in layer.batches:
        labels = np.asarray(batch.labels)
        counts += np.bincount(labels, minlength=len(colors))[: len(colors)]
        if len(labels):
            _sketch_batch(sketch, shapely.transform(batch.polygons, lambda xy: xy * scale), labels, layer.filled)
    table = np.array([(0, 0, 0, 0), *((*rgb(color), 255) for color in colors)], np.uint8)
    if layer.filled:
        fill = table[sketch.array("fill")]
        fill[..., 3] = np.minimum(fill[..., 3], _FILL_ALPHA)
        lay_over(picture, fill)
    picture[sketch.array("halo") > 0] = _HALO
    line = sketch.array("line")
    picture[line > 0] = table[line[line > 0]]
    return counts


def lay_over(picture: NDArray[np.uint8], upper: NDArray[np.uint8]) -> None:
    """Compose a translucent picture over another, both RGBA (height, width, 4), in place."""
    composed = Image.alpha_composite(Image.fromarray(picture), Image.fromarray(upper))
    picture[:] = np.asarray(composed)


def _sketch_batch(sketch: _Sketch, polygons: NDArray[Any], labels: NDArray[np.int64], filled: bool) -> None:
    bounds = shapely.bounds(polygons)
    sides = bounds[:, 2:] - bounds[:, :2]
    boxes = (shapely.get_num_coordinates(polygons) == 5) & np.isclose(shapely.area(polygons), sides.prod(axis=1))
    tiny = sides.max(axis=1) <= _TINY
    inks = labels + 1
    lines = np.where(sides.min(axis=1) < _SMALL, 1, 2)
    for index in np.flatnonzero(boxes | tiny):
        _sketch_box(sketch, bounds[index], int(inks[index]), int(lines[index]), filled)
    others = np.flatnonzero(~(boxes | tiny))
    parts, owners = shapely.get_parts(shapely.simplify(polygons[others], 0.4), return_index=True)
    for part, owner in zip(parts, others[owners], strict=True):
        _sketch_polygon(sketch, part, int(inks[owner]), int(lines[owner]), filled)


def _sketch_box(sketch: _Sketch, bounds: NDArray[np.float64], ink: int, line: int, filled: bool) -> None:
    """A rectangle whose line runs inside its edges, at least two pixels wide and never off the picture."""
    left, top, right, bottom = (round(value) for value in bounds)
    left, top = min(left, sketch.size[0] - 2), min(top, sketch.size[1] - 2)
    right, bottom = max(right, left + 2) - 1, max(bottom, top + 2) - 1
    if filled:
        sketch.pens["fill"].rectangle((left, top, right, bottom), fill=ink)
    sketch.pens["halo"].rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=1, width=line + 2)
    sketch.pens["line"].rectangle((left, top, right, bottom), outline=ink, width=line)


def _sketch_polygon(sketch: _Sketch, polygon: Any, ink: int, line: int, filled: bool) -> None:
    # ImageDraw takes the pixel that a point lies in; the right and lower edge of the picture lie in none.
    last = np.array(sketch.size) - 1
    rings = [np.minimum(shapely.get_coordinates(ring), last) for ring in (polygon.exterior, *polygon.interiors)]
    if filled and len(rings[0]):
        _sketch_fill(sketch, rings, ink)
    for ring in rings:
        path = [tuple(point) for point in ring.tolist()]
        sketch.pens["halo"].line(path, fill=1, width=line + 2)
        sketch.pens["line"].line(path, fill=ink, width=line)


def _sketch_fill(sketch: _Sketch, rings: list[NDArray[np.float64]], ink: int) -> None:
    if len(rings) == 1:
        sketch.pens["fill"].polygon([tuple(point) for point in rings[0].tolist()], fill=ink)
        return
    corner = np.floor(rings[0].min(axis=0)).astype(int)
    stencil = Image.new("L", tuple((np.ceil(rings[0].max(axis=0)).astype(int) - corner + 1).tolist()))
    pen = ImageDraw.Draw(stencil)
    for ring, value in zip(rings, (255, *[0] * (len(rings) - 1)), strict=True):
        pen.polygon([tuple(point) for point in (ring - corner).tolist()], fill=value)
    sketch.layers["fill"].paste(ink, tuple(corner.tolist()), stencil)
