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
from dynamicvis.geo.assembly import Mosaic, check_creation_options, write_rasters
from dynamicvis.geo.engine import Job, Progress, Times, run_bands, stored_bands, tiles_with_data
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.memory import fit_batch_size, measure, parse_size
from dynamicvis.geo.outputs import check_paths
from dynamicvis.geo.products import RasterSpec
from dynamicvis.geo.reading import DEFAULT_CACHE, gdal_cache
from dynamicvis.geo.runs.identity import identify
from dynamicvis.geo.source import Scene
from dynamicvis.geo.tiles import tile_grid
from dynamicvis.geo.work import STAGED, Hopeless, Plan, WorkPlace
from dynamicvis.tile_model import Predictor, TileOutputs

_VALUES = "values"
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
    dtype = _check_dtype(out_dtype)
    if out_nodata is None and dtype.kind == "f":
        out_nodata = float("nan")
    if out_nodata is not None and dtype.kind in "iu" and not _holds(dtype, out_nodata):
        raise GeoError(f"out_nodata {out_nodata:g} is no value of {dtype}; choose one that is")
    check_tiling(tile, overlap)
    check_batches(batch_size, readers)
    _check_destination(destination)
    with Scene(source, bands=bands, nodata=nodata, bounds=bounds) as scene:
        if any(destination.exists() and destination.samefile(file) for file in scene.files):
            raise GeoError(f"{destination} is the scene itself and would be replaced; choose another output")
        grid = tile_grid(scene.height, scene.width, tile, overlap)
        predict = _as_predictor(fn)
        function = identify(fn)
        options = {
            "scene": scene.fingerprint(),
            "function": function.parts,
            "tile": tile,
            "overlap": overlap,
            "batch_size": batch_size,
            "max_memory": max_memory,
            "out_dtype": str(dtype),
            "out_nodata": None if out_nodata is None else repr(float(out_nodata)),
            "creation_options": dict(creation_options or {}),
            "version": __version__,
        }
        fitting = batch_size
        if max_memory is not None:
            limit = parse_size(str(max_memory))
            decoding = scene.decoding_memory()
            use = measure(predict, scene.count, tile, readers=readers, cache=DEFAULT_CACHE, decoding=decoding)
            fitting = fit_batch_size(use, batch_size, limit)
        spec = RasterSpec(
            name=_VALUES,
            source=_VALUES,
            dtype=str(dtype),
            nodata=out_nodata,
            convert=lambda block: block,
            resampling="average" if scene.colormap is None else "mode",
            descriptions=scene.descriptions,
            **_meaning(scene, dtype),
            colormap=scene.colormap if dtype == np.uint8 else None,
            tags={"DYNAMICVIS_VERSION": __version__, "DYNAMICVIS_TILING": f"tile {tile}, overlap {overlap}"},
        )
        check_creation_options(spec, creation_options or {})
        staged = f"{STAGED}{destination.suffix}"
        place = WorkPlace(destination.parent, destination.name, [destination.name], [staged])
        plan = Plan(options, {"batch_size": fitting}, function.unknown)
        with gdal_cache(), place.open(plan, resume=resume, overwrite=overwrite) as work:
            if work.result is not None:
                return MapResult(destination, None)
            job = Job(scene, predict, grid, [spec], batch_size=work.choices["batch_size"], readers=readers)
            times = run_bands(job, work, progress)

            def make_outputs(staging: Path) -> dict[str, Any]:
                if tiles_with_data(grid, work) == 0:
                    raise Hopeless(f"{scene.path} has no pixel with data (NoData everywhere); there is nothing to map")
                write_rasters(
                    Mosaic(grid, [spec], stored_bands(grid, work)),
                    grid,
                    {staging / staged: spec},
                    {"crs": scene.crs, "transform": scene.affine} if scene.georeferenced else {},
                    scratch=work.folder,
                    creation_options=creation_options or {},
                )
                return {}

            work.conclude(make_outputs)
            return MapResult(destination, times)


def _meaning(scene: Scene, dtype: np.dtype[Any]) -> dict[str, Any]:
    """What the numbers of an output stand for, if the function keeps the bands."""
    if dtype.kind != "f" and {str(dtype)} != set(scene.dtypes):
        return {}
    return {"scales": scene.scales, "offsets": scene.offsets, "units": scene.units}


def check_tiling(tile: int, overlap: int) -> None:
    """Refuse sizes out of range.

    Raises:
        GeoError: tile below 1, or overlap below 0 or not below tile.
    """
    if tile < 1:
        raise GeoError(f"tile must be at least 1 pixel, not {tile}")
    if not 0 <= overlap < tile:
        raise GeoError(f"overlap must be at least 0 and less than tile ({tile} pixels), not {overlap}")


def check_batches(batch_size: int, readers: int) -> None:
    """Refuse numbers out of range.

    Raises:
        GeoError: batch size or readers below 1.
    """
    if batch_size < 1:
        raise GeoError(f"batch size must be at least 1, not {batch_size}")
    if readers < 1:
        raise GeoError(f"readers must be at least 1, not {readers}")


def _check_dtype(name: str) -> np.dtype[Any]:
    with suppress(TypeError):
        if str(np.dtype(name)) in _DTYPES:
            return np.dtype(name)
    raise GeoError(f"out_dtype {name} is none that can be written; choose of {', '.join(_DTYPES)}")


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _check_destination(destination: Path) -> None:
    if destination.suffix.lower() not in (".tif", ".tiff"):
        raise GeoError(f"{destination} has no suffix of a GeoTIFF; name it .tif")
    check_paths(destination.parent, [destination.name])


def _as_predictor(fn: Callable[[NDArray[np.float32]], Any]) -> Predictor:
    def predict(images: NDArray[np.float32]) -> TileOutputs:
        answer = fn(images)
        if hasattr(answer, "detach"):
            answer = answer.detach().float().cpu()
        values = np.asarray(answer)
        if values.ndim != 4 or len(values) != len(images) or values.shape[2:] != images.shape[2:] or not values.size:
            raise ValueError(
                f"the function gave an array of shape {values.shape} for tiles of shape {images.shape}; it must be "
                f"({len(images)}, K, {images.shape[2]}, {images.shape[3]})"
            )
        return TileOutputs(maps={_VALUES: values})

    return predict
