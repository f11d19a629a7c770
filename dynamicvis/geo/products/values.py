"""A raster of whatever a function of tiles gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dynamicvis.geo.products.product import Product
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.scene.source import Scene
from dynamicvis.geo.stitching.grid import Grid
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.tile_model import TileOutputs

_VALUES = "values"


class Values(Product):
    """The answers of a function, blended: one raster.

    Args:
        scene: what the function is run over; the raster keeps its place, and what its bands mean where they are kept.
        grid: the tiles.
        file_name: of the raster while it is made.
        dtype: of its numbers.
        nodata: value of pixels without data; None for an internal mask.
        tags: of the raster.
        creation_options: of GDAL's COG driver.
    """

    kind: ClassVar[str] = "raster"
    computed_by: ClassVar[str] = "function"
    empty: ClassVar[str] = "there is nothing to map"

    def __init__(
        self,
        scene: Scene,
        grid: Grid,
        file_name: str,
        dtype: np.dtype[Any],
        nodata: float | None,
        *,
        tags: Mapping[str, str],
        creation_options: Mapping[str, str],
    ) -> None:
        profile = {"crs": scene.crs, "transform": scene.affine} if scene.georeferenced else {}
        super().__init__(grid, profile, creation_options, 0.0)
        self._file_name = file_name
        self._spec = RasterSpec(
            name=_VALUES,
            source=_VALUES,
            dtype=str(dtype),
            nodata=nodata,
            convert=lambda block: block,
            resampling="average" if scene.colormap is None else "mode",
            descriptions=scene.descriptions,
            **_meaning(scene, dtype),
            colormap=scene.colormap if dtype == np.uint8 else None,
            tags=tags,
        )

    @property
    def options(self) -> Mapping[str, Any]:
        nodata = self._spec.nodata
        return {"out_dtype": self._spec.dtype, "out_nodata": None if nodata is None else repr(float(nodata))}

    @property
    def rasters(self) -> list[RasterSpec]:
        return [self._spec]

    def answer(self, given: Any, shape: tuple[int, ...]) -> TileOutputs:
        if hasattr(given, "detach"):
            given = given.detach().float().cpu()
        values = np.asarray(given)
        if values.ndim != 4 or len(values) != shape[0] or values.shape[2:] != shape[2:] or not values.size:
            raise ValueError(
                f"the function gave an array of shape {values.shape} for tiles of shape {shape}; it must be "
                f"({shape[0]}, K, {shape[2]}, {shape[3]})"
            )
        return TileOutputs(maps={_VALUES: values})

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        self._write_maps(work, {staging / self._file_name: self._spec})
        return {}


def _meaning(scene: Scene, dtype: np.dtype[Any]) -> dict[str, Any]:
    """What the numbers of an output stand for, if the function keeps the bands."""
    if dtype.kind != "f" and {str(dtype)} != set(scene.dtypes):
        return {}
    return {"scales": scene.scales, "offsets": scene.offsets, "units": scene.units}
