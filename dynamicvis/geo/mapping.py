"""Any function of tiles over any raster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis import __version__
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.file_names import Outputs, check_paths
from dynamicvis.geo.products.values import Values
from dynamicvis.geo.runs.engine import Progress, Times
from dynamicvis.geo.runs.run import Run, refuse_own_scenes
from dynamicvis.geo.runs.settings import Settings
from dynamicvis.geo.scene.source import Scene
from dynamicvis.geo.stitching.grid import tile_grid

_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True)
class MapResult:
    """What `map_raster` did.

    Attributes:
        path: the raster that it wrote.
        times: where this process spent its time, and how many tiles it computed; None when the raster was there
            already, made by the same call.
    """

    path: Path
    times: Times | None


def map_raster(
    fn: Callable[[NDArray[np.float32]], Any],
    source: str | Path,
    destination: str | Path,
    *,
    tile: int = 1024,
    overlap: int = 128,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    out_dtype: str = "float32",
    out_nodata: float | None = None,
    batch_size: int = 4,
    readers: int = 2,
    max_memory: int | str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    creation_options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MapResult:
    """Run a function over a raster, tile by tile, and blend its results into a cloud-optimised GeoTIFF.

    Neighbouring tiles are blended over their overlap with weights that sum to one; at the edge of the raster nothing
    fades. Pixels without data stay without data, and a tile that holds no other is never computed. A function that
    returns what it gets reproduces the raster to the rounding of float32. CRS, affine and, where the function keeps the
    bands, their names and colour table are those of the source. So are scale, offset and unit of the bands, as the
    function is given the stored numbers and not those that they stand for: where it keeps the bands, and ``out_dtype``
    is a floating type or the bands' own. A function whose numbers mean something else gives them another type or
    another number of bands, or the caller sets scale 1 and offset 0 in the file.

    Interrupted runs go on where they stopped when the same call is made again, and several processes that make the same
    call while one of them is at work share it. When the raster is there and was made by the same call, that is the
    result, and nothing is computed. Two calls are the same when the scene (see `Scene.fingerprint`), the options and
    the function are: its byte code, default values, closure, and the values of the global names that it reads; of an
    object its class and its state. A function that holds something that cannot be compared, such as an open session of
    another library, goes on with nothing and shares with nobody, unless it has an attribute ``digest``, a string, which
    then stands for all of it.

    Args:
        fn: maps (B, C, tile, tile) float32, 0 where there is no data, to an array or tensor (B, K, tile, tile). A pixel
            with a value that is not finite becomes NoData. It may return the same buffer each time, and write to its
            input.
        source: a raster that GDAL can open.
        destination: GeoTIFF to write; its folder is made if needed.
        tile: edge of a tile, pixels.
        overlap: of neighbouring tiles, pixels, ``0 <= overlap < tile``.
        bands: numbers of the bands to read, from 1, in this order; all without alpha if not given.
        nodata: value of the source that means no data, instead of the one in the file.
        bounds: left, bottom, right, top in the CRS of the source: only this part is mapped.
        out_dtype: numpy name of the type to write; integers are rounded and clipped.
        out_nodata: value of pixels without data. None is NaN for floating point, and an internal mask for integers.
        batch_size: tiles in one call of ``fn``; fewer at the end of a row.
        readers: threads that read ahead.
        max_memory: bytes, or text such as ``"4GB"``: lowers ``batch_size`` until the process stays below it, or
            refuses. ``fn`` is called on an empty tile to see what it takes.
        resume: go on with an interrupted run, and take a finished one for the result; otherwise begin anew.
        overwrite: replace ``destination``.
        creation_options: of GDAL's COG driver, such as ``{"COMPRESS": "ZSTD"}``.
        progress: called with the number of tiles done, of all tiles, and of the scene's pixels; first with 0 tiles.

    Raises:
        GeoError: a raster, option or destination that cannot be used; the message says what to do.
        ValueError: the answer of ``fn`` does not fit its input.
    """
    destination = Path(destination)
    number = _check_dtype(out_dtype)
    if out_nodata is None and number.kind == "f":
        out_nodata = float("nan")
    if out_nodata is not None and number.kind in "iu" and not _holds(number, out_nodata):
        raise GeoError(f"out_nodata {out_nodata:g} is no value of {number}; choose one that is")
    settings = Settings(
        batch_size=batch_size,
        readers=readers,
        max_memory=max_memory,
        creation_options=creation_options or {},
        resume=resume,
        overwrite=overwrite,
    )
    settings.check()
    tiling = settings.tiling(tile, overlap)
    outputs = _outputs(destination)
    with Scene(source, bands=bands, nodata=nodata, bounds=bounds) as scene:
        refuse_own_scenes(outputs, scene.files)
        product = Values(
            scene,
            tile_grid(scene.height, scene.width, *tiling),
            outputs.staged.names[0],
            number,
            out_nodata,
            tags={"DYNAMICVIS_VERSION": __version__, "DYNAMICVIS_TILING": f"tile {tile}, overlap {overlap}"},
            creation_options=settings.creation_options,
        )
        result = Run(scene, fn, product, outputs, settings, tiling).execute(progress)
    return MapResult(destination, result.times)


def _check_dtype(name: str) -> np.dtype[Any]:
    with suppress(TypeError):
        if str(np.dtype(name)) in _DTYPES:
            return np.dtype(name)
    raise GeoError(f"out_dtype {name} is none that can be written; choose of {', '.join(_DTYPES)}")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _outputs(destination: Path) -> Outputs:
    if destination.suffix.lower() not in (".tif", ".tiff"):
        raise GeoError(f"{destination} has no suffix of a GeoTIFF; name it .tif")
    check_paths(destination.parent, [destination.name])
    return Outputs(destination.parent, destination.stem, (destination.suffix,))
