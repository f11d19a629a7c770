"""What a picture shows on top of a scene."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

if TYPE_CHECKING:
    from dynamicvis.geo.output.vectors import Features


class Ground(Protocol):
    """A scene to draw on: what the pictures need of `dynamicvis.geo.Scene`."""

    path: str
    height: int
    width: int
    crs: CRS | None
    affine: Affine
    gsd: float | None

    def read_resampled(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]: ...


@dataclass(frozen=True)
class ObjectLayer:
    """Objects or class polygons, drawn as outlines.

    Attributes:
        batches: gone through once for each picture, so a list or an object that can be iterated again. Their order
            gives the ids, from 1, and so must be that of the vector file. Only one batch is in memory at a time, and
            in a preview the largest objects.
        filled: a light fill within the outlines, for masks and classes; boxes are better without.
    """

    batches: Iterable[Features]
    filled: bool = False


@dataclass(frozen=True)
class ClassLayer:
    """A raster of class indices, drawn as translucent areas.

    Attributes:
        path: a raster of one uint8 band, from the top left corner of the scene on. Pixels without data, and values
            that are no class, are left out.
        hidden: indices of classes not drawn, such as a background.
        pixels: number of pixels of each class in the whole raster where it is known; else the shares in the legend
            are those of the picture.
        cell: edge of a pixel of this raster, in pixels of the scene.
    """

    path: str | Path
    hidden: Collection[int] = ()
    pixels: Sequence[int] | None = None
    cell: float = 1.0


@dataclass(frozen=True)
class ValueLayer:
    """A raster of scores, of a selection or of an embedding, drawn in colours.

    Attributes:
        path: a raster of any number of bands, from the top left corner of the scene on. Pixels without data are left
            out.
        name: what the values are, for the legend.
        style: ``"ramp"`` shows the mean of the bands from dark (0) to bright (``highest``); ``"components"`` shows
            the first three principal components of the bands as red, green and blue.
        cell: edge of a pixel of this raster, in pixels of the scene.
        highest: end of the ramp, in units of the raster.
    """

    path: str | Path
    name: str
    style: Literal["ramp", "components"] = "ramp"
    cell: float = 1.0
    highest: float = 1.0


Layer = ObjectLayer | ClassLayer | ValueLayer
