"""From the files of all rows of tiles to rasters: cloud-optimised GeoTIFFs, each block written once."""

from __future__ import annotations

import logging
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.reading import gdal_cache
from dynamicvis.geo.stitching.grid import Extent, Grid
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.geo.stitching.rows import Record, RowLayout, cast, convert, record_columns

_BLOCK = 512
_CHUNK = 2 * _BLOCK
_LARGEST_BLOCK = 4 << 20  # bytes of a block of cells
_CACHE = 32 << 20  # bytes of decoded blocks; what reading the scene has left in the cache makes room for the rest


@dataclass(frozen=True)
class StoredRow:
    """Where a finished row of tiles lies, and what is in it.

    Attributes:
        path: its file.
        offsets: place of each tile's record in the file, -1 for a tile without data.
        channels, bands: number of channels of each map, and of bands of each raster, by name.
    """

    path: Path
    offsets: Sequence[int]
    channels: Mapping[str, int]
    bands: Mapping[str, int]


class Mosaic:
    """The rows of tiles of a raster, put together window by window.

    Args:
        grid: its tiles.
        rasters: what was made of the maps.
        stored: one entry a row of tiles.
    """

    def __init__(self, grid: Grid, rasters: Sequence[RasterSpec], stored: Sequence[StoredRow]) -> None:
        self._grid, self._rasters, self._stored = grid, rasters, stored
        with_data = [row for row in stored if row.bands]
        if len({tuple(sorted({**row.channels, **row.bands}.items())) for row in with_data}) > 1:
            raise ValueError("the model gave different numbers of channels for different tiles")
        channels = with_data[0].channels if with_data else {}
        self.bands = dict(with_data[0].bands) if with_data else {}
        self._layouts = [RowLayout(grid, row, rasters, channels, self.bands) for row in range(len(stored))]
        self._columns = record_columns(grid)

    def read(self, extent: Extent) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]:
        """Values (bands, height, width) and mask (height, width) of each raster over a window, by its name."""
        height, width = extent.bottom - extent.top, extent.right - extent.left
        values = {
            spec.name: np.zeros((self.bands[spec.name], height, width), np.dtype(spec.dtype)) for spec in self._rasters
        }
        masks = {spec.name: np.zeros((height, width), bool) for spec in self._rasters}
        # Mapped anew for each window: pages of a map that stays open count as memory of this process.
        opened: dict[int, NDArray[np.uint8]] = {}
        for column in self._touched_columns(extent):
            left = max(self._columns[column], extent.left)
            right = min(self._columns[column + 1], extent.right)
            inside = slice(left - self._columns[column], right - self._columns[column])
            target = slice(left - extent.left, right - extent.left)
            for row in self._touched_rows(extent):
                record = self._record(row, column, opened)
                if record is None:
                    continue
                top, inner, lower, bottom = self._layouts[row].rows
                first, last = max(inner, extent.top), min(lower, extent.bottom)
                if first < last:
                    where = (slice(first - extent.top, last - extent.top), target)
                    for name, array in record.values.items():
                        values[name][:, *where] = array[:, first - inner : last - inner, inside]
                        masks[name][where] = record.mask[first - top : last - top, inside]
                first, last = max(lower, extent.top), min(bottom, extent.bottom)
                below = self._record(row + 1, column, opened) if first < last else None
                if below is not None:
                    where = (slice(first - extent.top, last - extent.top), target)
                    valid = record.mask[first - top : last - top, inside].astype(bool)
                    seam = slice(first - lower, last - lower)
                    for spec in self._rasters:
                        shares = record.bottom[spec.source], below.top[spec.source]
                        block, finite = convert(spec, shares[0][:, seam, inside] + shares[1][:, seam, inside])
                        values[spec.name][:, *where] = block
                        masks[spec.name][where] = valid & finite
        return values, masks

    def _record(self, row: int, column: int, opened: dict[int, NDArray[np.uint8]]) -> Record | None:
        stored = self._stored[row]
        if stored.offsets[column] < 0:
            return None
        if row not in opened:
            opened[row] = np.memmap(stored.path, np.uint8, "r")
        return self._layouts[row].read(opened[row], stored.offsets[column], column)

    def _touched_columns(self, extent: Extent) -> range:
        return range(bisect_right(self._columns, extent.left) - 1, bisect_left(self._columns, extent.right))

    def _touched_rows(self, extent: Extent) -> Iterator[int]:
        return (
            row
            for row, layout in enumerate(self._layouts)
            if layout.rows[0] < extent.bottom and extent.top < layout.rows[3]
        )


def write_rasters(
    mosaic: Mosaic,
    grid: Grid,
    targets: Mapping[Path, RasterSpec],
    profile: Mapping[str, Any],
    *,
    scratch: Path,
    creation_options: Mapping[str, str],
) -> dict[str, NDArray[np.int64]]:
    """Write rasters as cloud-optimised GeoTIFF, with overviews, tags, band names and colours of their specs.

    Args:
        mosaic: where the values come from.
        grid: its tiles.
        targets: which raster goes to which file.
        profile: ``crs`` and ``transform`` of the raster, or nothing.
        scratch: folder for the uncompressed copies that GDAL makes the files from.
        creation_options: of GDAL's COG driver; they replace ours.

    Returns:
        Number of pixels of each value, 0 to 255, of rasters of classes, by their name.

    Raises:
        GeoError: a file cannot be written.
    """
    plain = {path: scratch / f"{path.stem}.plain.tif" for path in targets}
    with gdal_cache(_CACHE), _reported([path.name for path in targets]):
        specs = {plain[path]: spec for path, spec in targets.items()}
        counts = _write_plain(mosaic, grid, specs, profile)
        for path, spec in targets.items():
            if spec.resampling is None:
                plain[path].replace(path)
            else:
                _copy_as_cog(plain[path], path, spec, creation_options)
                plain[path].unlink()
    return counts


def write_rows(
    path: Path,
    spec: RasterSpec,
    rows: Iterable[Sequence[tuple[int, NDArray[np.float32]]]],
    profile: Mapping[str, Any],
    *,
    shape: tuple[int, int],
    scratch: Path,
    creation_options: Mapping[str, str],
) -> None:
    """Write a raster of single vectors, a row of pixels at a time, as cloud-optimised GeoTIFF.

    Args:
        path: file to write.
        spec: what to make of the vectors; it has a NoData value.
        rows: for each row, from the top, the column and vector (D,) of each pixel that has one.
        profile: ``crs`` and ``transform`` of the raster, or nothing.
        shape: height and width.
        scratch: folder for the uncompressed copy.
        creation_options: of GDAL's COG driver; they replace ours.

    Raises:
        GeoError: the file cannot be written.
    """
    plain = scratch / f"{path.stem}.plain.tif"
    sink: Any = None
    block_size = _BLOCK
    with gdal_cache(_CACHE), _reported([path.name]):
        try:
            for top, row in enumerate(rows):
                if not row:
                    continue
                vectors = np.stack([vector for _, vector in row], axis=1)[:, None]
                values = cast(spec.convert(vectors), spec.dtype)
                if sink is None:
                    block_size = _fitting_block(len(values) * np.dtype(spec.dtype).itemsize)
                    sink = _create(plain, spec, len(values), shape, profile, block_size)
                block = np.full((len(values), 1, shape[1]), spec.nodata, spec.dtype)
                block[:, :, [column for column, _ in row]] = values
                sink.write(block, window=Window(0, top, shape[1], 1))
        finally:
            if sink is not None:
                sink.close()
        _copy_as_cog(plain, path, spec, {"BLOCKSIZE": str(block_size), **creation_options})
        plain.unlink()


def check_creation_options(spec: RasterSpec, creation_options: Mapping[str, str]) -> None:
    """Try options of GDAL's COG driver on a single pixel; what it does not know it would leave aside.

    Args:
        spec: of the raster that is to be written.
        creation_options: as for `write_rasters`.

    Raises:
        GeoError: an option that does not exist, or a value that it cannot have.
    """
    if not creation_options:
        return
    size = {name.upper(): value for name, value in creation_options.items()}.get("BLOCKSIZE", str(_BLOCK))
    # What is no number here takes the process down with it.
    if not re.fullmatch("[0-9]{1,5}", str(size)) or int(size) < 16 or int(size) % 16:
        raise GeoError(f"creation option BLOCKSIZE={size} is no multiple of 16 pixels; give one, such as {_BLOCK}")
    complaints, log = _Complaints(), logging.getLogger("rasterio._env")
    given = ", ".join(f"{name}={value}" for name, value in creation_options.items())
    log.addHandler(complaints)
    try:
        # In memory: it works where the disk of temporary files is full, too.
        with MemoryFile() as plain, MemoryFile() as path, warnings.catch_warnings(action="ignore"):
            plain.open(driver="GTiff", width=1, height=1, count=1, dtype=spec.dtype).close()
            rasterio.shutil.copy(plain.name, path.name, driver="COG", **_cog_options(spec, creation_options))
    except (CPLE_BaseError, RasterioError) as error:
        complaints.found.append(str(error.__cause__ or error).strip().rstrip("."))
    finally:
        log.removeHandler(complaints)
    if complaints.found:
        raise GeoError(
            f"{complaints.found[0]}; it was given as {given}; see https://gdal.org/drivers/raster/cog.html for what "
            "can be"
        )


@contextmanager
def _reported(names: Sequence[str]) -> Iterator[None]:
    """Name the files where GDAL or the disk says that something cannot be written."""
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            yield
    except (CPLE_BaseError, RasterioError, OSError) as error:
        reason = str(error.__cause__ or error).strip()
        raise GeoError(
            f"{', '.join(names)} cannot be written ({reason}); "
            "check the creation options, the folder and its free space"
        ) from error


def _write_plain(
    mosaic: Mosaic,
    grid: Grid,
    targets: Mapping[Path, RasterSpec],
    profile: Mapping[str, Any],
) -> dict[str, NDArray[np.int64]]:
    sinks: dict[str, Any] = {}
    masks: dict[str, _Mask] = {}
    counts = {spec.name: np.zeros(256, np.int64) for spec in targets.values() if spec.resampling == "mode"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        try:
            for path, spec in targets.items():
                sinks[spec.name] = _create(path, spec, mosaic.bands[spec.name], (grid.height, grid.width), profile)
                if spec.nodata is None:
                    masks[spec.name] = _Mask(sinks[spec.name])
            for top in range(0, grid.height, _CHUNK):
                for left in range(0, grid.width, _CHUNK):
                    extent = Extent(left, top, min(left + _CHUNK, grid.width), min(top + _CHUNK, grid.height))
                    _write_window(mosaic, extent, targets, sinks, masks, counts)
        finally:
            for sink in sinks.values():
                sink.close()
    return counts


def _fitting_block(bytes_per_pixel: int) -> int:
    """Edge of a block that is small in memory also where a pixel has hundreds of bands."""
    size = _BLOCK
    while size > 16 and size * size * bytes_per_pixel > _LARGEST_BLOCK:
        size //= 2
    return size


def _create(
    path: Path,
    spec: RasterSpec,
    bands: int,
    shape: tuple[int, int],
    profile: Mapping[str, Any],
    block_size: int = _BLOCK,
) -> Any:
    tiled = {"tiled": True, "blockxsize": block_size, "blockysize": block_size}
    # Blocks without data are left out: a sparse scene stays small.
    options = {"sparse_ok": True, "bigtiff": "IF_SAFER", **tiled}
    sink = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=shape[1],
        height=shape[0],
        count=bands,
        dtype=spec.dtype,
        nodata=spec.nodata,
        **profile,
        **options,
    )
    sink.update_tags(**spec.tags)
    if len(spec.descriptions) == bands:
        for band, description in enumerate(spec.descriptions, start=1):
            if description:
                sink.set_band_description(band, description)
    if len(spec.scales) == len(spec.offsets) == bands and any(
        meaning != (1, 0) for meaning in zip(spec.scales, spec.offsets, strict=True)
    ):
        sink.scales, sink.offsets = tuple(spec.scales), tuple(spec.offsets)
    if len(spec.units) == bands:
        for band, unit in enumerate(spec.units, start=1):
            if unit:
                sink.set_band_unit(band, unit)
    if spec.colormap is not None and bands == 1:
        sink.write_colormap(1, dict(spec.colormap))
    elif bands > 1 and not _pictorial(spec, bands):
        sink.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (bands - 1)]
    return sink


def _pictorial(spec: RasterSpec, bands: int) -> bool:
    return spec.dtype == "uint8" and bands == 3


def _write_window(
    mosaic: Mosaic,
    extent: Extent,
    targets: Mapping[Path, RasterSpec],
    sinks: Mapping[str, Any],
    written_masks: Mapping[str, _Mask],
    counts: Mapping[str, NDArray[np.int64]],
) -> None:
    values, masks = mosaic.read(extent)
    window = Window(extent.left, extent.top, extent.right - extent.left, extent.bottom - extent.top)
    for spec in targets.values():
        block, mask = values[spec.name], masks[spec.name]
        if spec.nodata is None:
            written_masks[spec.name].write(mask, window)
        if not mask.any():
            continue
        if spec.name in counts and spec.dtype == "uint8":
            counts[spec.name][:] += np.bincount(block[0][mask], minlength=256)
        if spec.nodata is not None and not mask.all():
            block[:, ~mask] = np.dtype(spec.dtype).type(spec.nodata)
        sinks[spec.name].write(block, window=window)


class _Mask:
    """The internal mask of a raster, made at the first window that needs it: where all is data, none is stored.

    A mask without holes says nothing, and takes a third of the time that GDAL needs to copy a raster of bytes.
    """

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self._full: list[Window] = []
        self._exists = False

    def write(self, mask: NDArray[np.bool_], window: Window) -> None:
        """Write the mask of one window; blocks of a mask that are not written are no data."""
        if not self._exists and mask.all():
            self._full.append(window)
            return
        self._exists = True
        for earlier in self._full:
            # Not True, with which rasterio fills the whole mask whatever the window.
            self._sink.write_mask(np.ones((earlier.height, earlier.width), bool), window=earlier)
        self._full.clear()
        if mask.any():
            self._sink.write_mask(mask, window=window)


def _copy_as_cog(plain: Path, path: Path, spec: RasterSpec, creation_options: Mapping[str, str]) -> None:
    rasterio.shutil.copy(plain, path, driver="COG", **_cog_options(spec, creation_options))
    with rasterio.open(path) as written, rasterio.open(plain) as source:
        if written.shape != source.shape or written.count != source.count:
            raise GeoError(f"{path.name} was not written to its end; check the free space of its disk")


def _cog_options(spec: RasterSpec, creation_options: Mapping[str, str]) -> dict[str, str]:
    quantity = spec.resampling == "average" and spec.colormap is None
    options = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if quantity else "NO",
        "OVERVIEW_RESAMPLING": str(spec.resampling).upper(),
        "NUM_THREADS": "ALL_CPUS",
        "BIGTIFF": "IF_SAFER",
        "SPARSE_OK": "YES",
    }
    return options | {name.upper(): value for name, value in creation_options.items()}


class _Complaints(logging.Handler):
    """What GDAL says about options, which it leaves aside."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        code, _, text = record.getMessage().partition(" in ")
        if code in ("CPLE_NotSupported", "CPLE_IllegalArg"):
            self.found.append(text.strip().rstrip("."))
