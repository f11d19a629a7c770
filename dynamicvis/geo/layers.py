"""What a picture shows on top of a scene, and the colours it has.

Every colour scale here can be told apart with the common kinds of colour blindness.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicvis.model_card import ModelCard


class Shapes(Protocol):
    """A batch of objects, as `dynamicvis.geo.vectors.Features` holds them.

    Attributes:
        polygons: (n,) shapely polygons or multipolygons in pixels of the scene.
        labels: (n,) int64, indices into the classes.
        scores: (n,) float64, 0 to 1.
    """

    @property
    def polygons(self) -> NDArray[Any]: ...
    @property
    def labels(self) -> NDArray[np.int64]: ...
    @property
    def scores(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class ObjectLayer:
    """Objects or class polygons, drawn as outlines.

    Attributes:
        batches: gone through once for each picture, so a list or an object that can be iterated again; their order
            gives the ids, from 1, and so must be that of the vector file. Objects of any number: none is kept but for
            the largest in a preview.
        filled: a light fill within the outlines, for masks and classes; boxes are better without.
    """

    batches: Iterable[Shapes]
    filled: bool = False


@dataclass(frozen=True)
class ClassLayer:
    """A raster of class indices, drawn as translucent areas.

    Attributes:
        path: a raster of one uint8 band, from the top left corner of the scene; pixels that are its NoData, or name
            no class, are left out.
        hidden: classes not drawn, such as a background; they stand in no legend either.
        pixels: number of pixels of each class, where it is known; else it is estimated from the picture's pixels.
        cell: edge of a pixel of this raster, in pixels of the scene.
    """

    path: str | Path
    hidden: Collection[int] = ()
    pixels: Sequence[int] | None = None
    cell: float = 1.0


@dataclass(frozen=True)
class ValueLayer:
    """A raster of scores, of a selection or of an embedding, drawn as colours.

    Attributes:
        path: a raster of any number of bands, from the top left corner of the scene; NoData is left out.
        name: what the values are, for the legend: ``"selection"``.
        style: ``"ramp"``: the mean of the bands from dark (0) to bright (1); ``"components"``: the first three
            principal components of the bands as red, green and blue.
        cell: edge of a pixel of this raster, in pixels of the scene.
    """

    path: str | Path
    name: str
    style: Literal["ramp", "components"] = "ramp"
    cell: float = 1.0


Layer = ObjectLayer | ClassLayer | ValueLayer
