"""What a raster made of a model's maps is like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NO_CLASS = 255  # of class rasters


@dataclass(frozen=True)
class RasterSpec:
    """One raster made from a blended map.

    Attributes:
        name: what it is called among the rasters of a run.
        source: key of the map in `TileOutputs.maps`.
        dtype: numpy name of its type.
        nodata: value of pixels without data; None keeps them in an internal mask.
        convert: (K, height, width) float32 to (bands, height, width); the engine casts to ``dtype``, rounding and
            clipping to its range where that is an integer type.
        resampling: how overviews are made: ``"mode"`` for classes, ``"average"`` for quantities. None for a raster that
            nobody else reads, and that is not made cloud-optimised.
        descriptions: names of the bands, or none.
        scales, offsets, units: what the numbers of the bands stand for, number x scale + offset, or none.
        colormap: colours (red, green, blue, alpha), 0 to 255, of the values of a single band of bytes.
        tags: dataset metadata.
    """

    name: str
    source: str
    dtype: str
    nodata: float | None
    convert: Callable[[NDArray[np.float32]], NDArray[Any]]
    resampling: Literal["mode", "average", "nearest"] | None = "average"
    descriptions: Sequence[str] = ()
    scales: Sequence[float] = ()
    offsets: Sequence[float] = ()
    units: Sequence[str | None] = ()
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
