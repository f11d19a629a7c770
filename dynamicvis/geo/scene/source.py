"""Windowed reading of a raster, in the bands and units that a model expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning
from rasterio.windows import Window

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.decoding import decoding_memory
from dynamicvis.geo.scene.fingerprint import fingerprint
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.scene.ground import pixel_size
from dynamicvis.geo.scene.reading import (
    DEFAULT_CACHE,
    Handles,
    files_within,
    is_remote,
    one_sentence,
    refuse_damaged,
    without_warnings,
)
from dynamicvis.geo.scene.values import as_stored, is_sentinel, notes_on_values, scaled_bands, suits
from dynamicvis.geo.stitching.grid import Extent
from dynamicvis.model_card import ModelCard

_GSD_FACTOR = 2.0  # a scene this much coarser or finer than the training imagery is worth a word
_OTHER_COLOURS = {
    *(ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black),
    *(ColorInterp.Y, ColorInterp.Cb, ColorInterp.Cr, ColorInterp.hue, ColorInterp.saturation, ColorInterp.lightness),
}
_SNAP = 1e-4  # pixels by which bounds may miss the edge of a pixel and still mean it
_UNREADABLE = "cannot be read to its end; it is truncated or damaged, fetch it again"
_UNREACHABLE = "cannot be read to its end; it is truncated or damaged, or the network failed: try again"


class Scene:
    """A raster opened for reading in windows, by any number of threads.

    What is data: a pixel is none where the file's mask (internal or ``.msk``) or an alpha band says so, where the
    NoData value stands in all bands that are read, or where a band is NaN or infinite. A NoData value that no data
    can have (outside the card's value range; without a card any but 0 and the largest value of an integer type)
    counts in a single band already.

    Attributes:
        path: as given.
        height, width: pixels of the scene, which is a part of the file when ``bounds`` are given.
        count: number of bands that are read.
        bands: their numbers in the file, from 1.
        crs: coordinate reference system, None for a scene that is not georeferenced.
        affine: pixel (column, row) of the scene to map (x, y); the identity for a scene that is not georeferenced.
        gsd: edge of a pixel in the middle of the scene, metres, on the celestial body or the plane of its CRS; None for
            a scene that is not georeferenced, or whose pixels have no place there.
        card: as given.
        dtypes: numpy's name of the type of each band read.
        descriptions: name of each band read, or None.
        nodatavals: NoData value of each band read, or None.
        nodata_given: as given.
        scales, offsets: what the file says its numbers stand for, number x scale + offset; values are read as stored.
        units: unit of that, of each band read, or None.
        colormap: colour table of a single band, value to (red, green, blue, alpha), or None.
        fill: value of each band where there is no data: the card's means, or zeros.
        has_mask: whether a mask or an alpha band, and not only values, says what is data.
        notes: sentences for the user about the scene; none of them is an error.

    Args:
        path: a raster that GDAL can open, remote files included, under the rules of `dynamicvis.raster_files`.
        card: card of the model; None reads any bands of any real type.
        bands: numbers of the bands to read, from 1, in the order of ``card.bands``. By default the first
            ``len(card.bands)`` that are no alpha, or without a card all that are no alpha.
        nodata: NoData value of all bands in place of the file's own.
        bounds: left, bottom, right, top in the scene's CRS (pixels, if it has none): the part of the file to read,
            grown to whole pixels and clipped to the raster.

    Raises:
        GeoError: no raster or a damaged one, bands that do not exist or do not suit the card, values that do not,
            bounds outside the raster, positions by ground control points or RPCs only, with a card a CRS or affine that
            gives the pixels no place.
    """

    def __init__(
        self,
        path: str | Path,
        card: ModelCard | None = None,
        *,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
        bounds: tuple[float, float, float, float] | None = None,
    ) -> None:
        self.path = str(path)
        self.card = card
        self.nodata_given = nodata
        self._unreadable = _UNREACHABLE if is_remote(self.path) else _UNREADABLE
        self._handles = Handles(self.path)
        try:
            with (
                self._handles.borrow() as dataset,
                one_sentence(self.path, "has a header that cannot be read; it is damaged, fetch it again"),
                # A NoData value beside alpha makes rasterio warn; here both count.
                without_warnings(NodataShadowWarning),
            ):
                refuse_damaged(dataset, self.path)
                self._look_at_bands(dataset, bands)
                self._look_at_place(dataset, bounds)
                self.notes = self._collect_notes(dataset)
        except BaseException:
            self._handles.close()
            raise

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, in all threads; a read that is under way ends well."""
        self._handles.close()

    @property
    def georeferenced(self) -> bool:
        """Whether the scene has a place on a map; else all its coordinates are pixels."""
        return self.crs is not None

    @property
    def files(self) -> list[Path]:
        """The files on this machine that it is read from, side files and the parts of a mosaic included."""
        with self._handles.borrow() as dataset:
            names = {self.path, *dataset.files}
        return [file for name in sorted(names) for file in files_within(name)]

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the pixels that are read, as JSON: two scenes with the same one give the same values.

        See `dynamicvis.geo.scene.fingerprint.fingerprint` for what it notices. To that come bands, NoData value and
        window.

        Raises:
            GeoError: a block that is read for it cannot be read.
        """
        nodata = [None if value is None else repr(float(value)) for value in self.nodatavals]
        window = [*self._origin, self.width, self.height]
        with self._handles.borrow() as dataset, one_sentence(self.path, self._unreadable):
            stamp = fingerprint(dataset, self.path)
        return stamp | {"bands": self.bands, "nodata": nodata, "window": window}

    def decoding_memory(self) -> int:
        """Bytes, at most, that a thread takes to decode blocks of the file while it reads a window."""
        with self._handles.borrow() as dataset, one_sentence(self.path, self._unreadable):
            return decoding_memory(dataset)

    def read(self, window: Extent) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read one window; what lies outside the raster counts as NoData. Safe to call from several threads.

        Returns:
            values: (count, window height, window width) float32 in raster units; pixels without data hold the
                card's mean of their band, which normalises to 0, or 0 without a card.
            valid: (window height, window width), True where there is data.

        Raises:
            GeoError: the file is damaged.
        """
        return read_padded(self._read_part, window, (self.height, self.width), self.fill)

    def read_resampled(
        self, height: int, width: int, part: Extent | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the whole scene, or a part of it, as ``height`` x ``width`` pixels, through overviews where it has some.

        Returns:
            values: (count, height, width) float32 in raster units, averaged when decimated, but for a NoData
                value of the caller's, which GDAL would average with the data; undefined without data.
            valid: (height, width), True where there is data.

        Raises:
            GeoError: the file is damaged.
        """
        part = part or Extent(0, 0, self.width, self.height)
        decimated = height < part.bottom - part.top or width < part.right - part.left
        average = decimated and self.nodata_given is None
        return self._read_part(
            part,
            shape=(height, width),
            resampling=Resampling.average if average else Resampling.nearest,
        )

    def _read_part(
        self, part: Extent, shape: tuple[int, int] | None = None, resampling: Resampling = Resampling.nearest
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        shape = shape or (part.bottom - part.top, part.right - part.left)
        window = Window(
            self._origin[0] + part.left, self._origin[1] + part.top, part.right - part.left, part.bottom - part.top
        )
        with self._handles.borrow() as dataset, one_sentence(self.path, self._unreadable):
            # All bands in one call: the blocks of a file interleaved by pixel are then decoded once.
            if self._same_type and resampling == Resampling.nearest:
                bands = [*self.bands, *self._alpha]
                stack = dataset.read(bands, window=window, out_shape=(len(bands), *shape))
            else:
                stack = [self._read_band(dataset, band, window, shape, resampling) for band in self.bands]
                stack += [self._read_band(dataset, band, window, shape, Resampling.nearest) for band in self._alpha]
            raw, alpha = stack[: self.count], stack[self.count :]
            valid = np.ones(shape, bool)
            if self._masked:
                masks = dataset.read_masks(self._masked, window=window, out_shape=(len(self._masked), *shape))
                valid = masks.any(axis=0)
            exact = {
                index: dataset.read_masks(self.bands[index], window=window, out_shape=shape) == 0
                for index in self._exact_nodata
            }
        for band in alpha:
            valid &= band > 0
        with np.errstate(over="ignore"):  # a number too large for float32 is infinite, hence no data
            values = np.asarray(raw, np.float32)
        for band, dtype in zip(values, self.dtypes, strict=True):
            if np.dtype(dtype).kind == "f":
                valid &= np.isfinite(band)
        self._strike_nodata(raw, valid, exact)
        return values, valid

    @staticmethod
    def _read_band(dataset: Any, band: int, window: Window, shape: tuple[int, int], resampling: Resampling) -> Any:
        return dataset.read(band, window=window, out_shape=shape, resampling=resampling)

    def _strike_nodata(self, raw: Any, valid: NDArray[np.bool_], exact: Mapping[int, NDArray[np.bool_]]) -> None:
        """Mark as no data what the NoData values say; ``exact`` are the pixels with that of a band, where known."""
        everywhere: NDArray[np.bool_] | None = None
        for index, (band, nodata, sentinel) in enumerate(zip(raw, self._nodata, self._sentinel, strict=True)):
            if nodata is None:
                continue
            hit = exact.get(index)
            if hit is None:
                hit = band == nodata
            if sentinel:
                valid &= ~hit
            elif everywhere is None:
                everywhere = hit
            else:
                everywhere &= hit
        if self._nodata_decides and everywhere is not None:
            valid &= ~everywhere

    def _look_at_bands(self, dataset: Any, bands: Sequence[int] | None) -> None:
        self._alpha = _alpha_bands(dataset)
        if dataset.count == 0:
            inner = ", ".join(dataset.subdatasets[:5])
            raise GeoError(
                f"{self.path} holds no raster of its own, but others in it; name one of them: {inner}"
                if inner
                else f"{self.path} has no bands; give a raster with pixels"
            )
        if dataset.width < 1 or dataset.height < 1:
            raise GeoError(f"{self.path} has no pixels ({dataset.width} x {dataset.height}); give another raster")
        self.bands = self._pick_bands(dataset, bands)
        self._alpha = sorted({*self._alpha} - {*self.bands})
        self.count = len(self.bands)
        # Each of these properties goes through all bands of the file.
        dtypes, descriptions, nodatavals = dataset.dtypes, dataset.descriptions, dataset.nodatavals
        self.dtypes = tuple(dtypes[band - 1] for band in self.bands)
        self.descriptions = tuple(descriptions[band - 1] for band in self.bands)
        self.nodatavals: tuple[float | None, ...] = (
            tuple(nodatavals[band - 1] for band in self.bands)
            if self.nodata_given is None
            else (self.nodata_given,) * self.count
        )
        scales, offsets, units = dataset.scales, dataset.offsets, dataset.units
        self.scales: tuple[float, ...] = tuple(scales[band - 1] for band in self.bands)
        self.offsets: tuple[float, ...] = tuple(offsets[band - 1] for band in self.bands)
        self.units: tuple[str | None, ...] = tuple(units[band - 1] or None for band in self.bands)
        self._refuse_types()
        flags = dataset.mask_flag_enums
        # rasterio gives NoData of 64 bits as a float, and none where that is beyond the type; GDAL's own mask is exact.
        self._exact_nodata = [
            index
            for index, (band, dtype) in enumerate(zip(self.bands, self.dtypes, strict=True))
            if dtype in ("int64", "uint64") and self.nodata_given is None and MaskFlags.nodata in flags[band - 1]
        ]
        if self._exact_nodata:
            self.nodatavals = tuple(
                np.iinfo(self.dtypes[index]).max if value is None and index in self._exact_nodata else value
                for index, value in enumerate(self.nodatavals)
            )
        self.colormap = _colormap(dataset, self.bands[0]) if self.count == 1 else None
        self._same_type = len({*self.dtypes, *(dtypes[band - 1] for band in self._alpha)}) == 1
        self._nodata = [as_stored(*pair) for pair in zip(self.nodatavals, self.dtypes, strict=True)]
        value_range = self.card.value_range if self.card else None
        self._sentinel = [
            value is not None and is_sentinel(float(value), dtype, value_range)
            for value, dtype in zip(self._nodata, self.dtypes, strict=True)
        ]
        kinds = {_mask_kind(flags[band - 1]) for band in self.bands}
        self._masked = [] if kinds == {"values"} else self.bands[:1] if kinds == {"file"} else self.bands
        self.has_mask = bool(self._masked or self._alpha)
        # A mask of the file goes before its NoData value, as in GDAL. A band without such a value has data everywhere.
        known = None not in self.nodatavals
        self._nodata_decides = known and (not self._masked or self.nodata_given is not None)
        self.fill: tuple[float, ...] = self.card.mean if self.card else (0.0,) * self.count

    def _pick_bands(self, dataset: Any, bands: Sequence[int] | None) -> list[int]:
        if bands is not None:
            return self._given_bands(dataset, bands)
        alpha = set(self._alpha)
        data_bands = [band for band in dataset.indexes if band not in alpha]
        if self.card is None:
            if not data_bands:
                raise GeoError(
                    f"{self.path} holds nothing but alpha; give a raster with other bands, or name one by -b"
                )
            return data_bands
        needed = len(self.card.bands)
        if len(data_bands) < needed:
            message = (
                f"{self.path} has {len(data_bands)} band{'' if len(data_bands) == 1 else 's'}, but model "
                f"'{self.card.name}' needs {needed} ({', '.join(self.card.bands)}), in this order; "
            )
            if ColorInterp.palette in dataset.colorinterp:
                raise GeoError(f"{message}unfold its palette with `gdal_translate -expand rgb {self.path} RGB.tif`")
            if self._alpha:
                message += (
                    f"mark its alpha band with `gdal_edit.py -colorinterp_{self._alpha[0]} undefined` if that is one; "
                )
            raise GeoError(
                f"{message}give a raster with these bands, or stack single ones with `gdalbuildvrt -separate`"
            )
        self._refuse_other_order(dataset, data_bands)
        self._refuse_other_colours(dataset, data_bands[:needed])
        return data_bands[:needed]

    def _given_bands(self, dataset: Any, bands: Sequence[int]) -> list[int]:
        wrong = [band for band in bands if not 1 <= band <= dataset.count]
        if wrong or not bands:
            raise GeoError(
                f"{self.path} has bands 1 to {dataset.count}, not {wrong[0] if wrong else 'none'}; give others by -b"
            )
        if self.card and len(bands) != len(self.card.bands):
            raise GeoError(
                f"{self.path}: {len(bands)} band{'' if len(bands) == 1 else 's'} chosen by -b, but model "
                f"'{self.card.name}' needs {len(self.card.bands)} ({', '.join(self.card.bands)}), in this order"
            )
        return list(bands)

    def _refuse_other_order(self, dataset: Any, data_bands: list[int]) -> None:
        """Refuse a file whose own names of its bands place the model's elsewhere."""
        assert self.card is not None
        wanted = [name.lower() for name in self.card.bands]
        # A band with a name of its own is none of alpha, which GDAL takes any fourth band of bytes for.
        descriptions, interpretations = dataset.descriptions, dataset.colorinterp
        described = {(descriptions[band - 1] or "").strip().lower(): band for band in reversed(dataset.indexes)}
        colors = {interpretations[band - 1].name: band for band in reversed(data_bands)}
        for names in (described, colors):
            if set(wanted) <= set(names):
                places = [names[name] for name in wanted]
                if places != data_bands[: len(wanted)]:
                    raise GeoError(
                        f"{self.path} has the bands of model '{self.card.name}' ({', '.join(self.card.bands)}) in "
                        f"another order, by its own names; add -b {','.join(map(str, places))}"
                    )
                return

    def _refuse_other_colours(self, dataset: Any, data_bands: list[int]) -> None:
        """Refuse inks and the like as red, green and blue."""
        assert self.card is not None
        interpretations = dataset.colorinterp
        foreign = [interpretations[band - 1].name for band in data_bands if interpretations[band - 1] in _OTHER_COLOURS]
        if foreign and not {name.lower() for name in self.card.bands} & {name.lower() for name in foreign}:
            raise GeoError(
                f"{self.path} holds colours as {', '.join(foreign)}, but model '{self.card.name}' needs "
                f"{', '.join(self.card.bands)}; save it as RGB, or name bands by -b if these are no such colours"
            )

    def _refuse_types(self) -> None:
        if self.card is None:
            for dtype in self.dtypes:
                if dtype.startswith("complex"):
                    raise GeoError(
                        f"{self.path} holds {dtype} values, which have no order; convert it with "
                        "`gdal_translate -ot Float32`, or take its amplitude first"
                    )
            return
        lowest, highest = self.card.value_range
        for dtype in self.dtypes:
            if not suits(dtype, lowest, highest):
                if highest - lowest <= 1 and scaled_bands(self):
                    raise GeoError(
                        f"{self.path} holds {dtype} values with a scale and an offset, but model '{self.card.name}' "
                        f"expects {lowest:g} to {highest:g}; apply them with "
                        f"`gdal_translate -ot Float32 -unscale {self.path} SCALED.tif`"
                    )
                target = "Byte" if (lowest, highest) == (0, 255) else "Float32"
                scale = "-scale" if target == "Byte" else f"-scale <lowest> <highest> {lowest:g} {highest:g}"
                raise GeoError(
                    f"{self.path} holds {dtype} values, but model '{self.card.name}' expects {lowest:g} to "
                    f"{highest:g}; convert it with `gdal_translate -ot {target} {scale} {self.path} SCALED.tif`"
                )

    def _look_at_place(self, dataset: Any, bounds: tuple[float, float, float, float] | None) -> None:
        # A CRS without an affine says nothing about where the pixels are.
        georeferenced = dataset.crs is not None and not dataset.transform.is_identity
        if not georeferenced and dataset.gcps[0]:
            raise GeoError(
                f"{self.path} is placed by ground control points only; give it a grid with "
                f"`gdalwarp {self.path} WARPED.tif` first"
            )
        if not georeferenced and dataset.rpcs is not None:
            raise GeoError(
                f"{self.path} is placed by a camera model (RPC) only; put it on the ground with "
                f"`gdalwarp -rpc -to RPC_DEM=<elevation model> {self.path} WARPED.tif` first"
            )
        self.crs: CRS | None = dataset.crs if georeferenced else None
        affine = dataset.transform if georeferenced else rasterio.Affine.identity()
        if affine.is_degenerate or not all(map(math.isfinite, affine)):
            raise GeoError(
                f"{self.path} has an affine transform that maps its pixels to nothing; set the right one with "
                "`gdal_edit.py -a_ullr <ulx> <uly> <lrx> <lry>`"
            )
        left, top, right, bottom = _pixels_of(bounds, affine, dataset, self.path)
        self._origin = (left, top)
        self.height: int = bottom - top
        self.width: int = right - left
        self.affine: Affine = affine @ Affine.translation(left, top)
        self.gsd = self._measure_gsd()

    def _measure_gsd(self) -> float | None:
        """Edge of a pixel; with a card, a place where no results can be is refused."""
        if self.crs is None:
            return None
        georeference = Georeference(self.crs, self.affine, self.path, (self.height, self.width))
        try:
            georeference.check()
            return pixel_size(georeference)
        except GeoError:
            if self.card is not None:
                raise
            return None

    def _collect_notes(self, dataset: Any) -> list[str]:
        notes = []
        if self.crs is None:
            notes.append(
                f"{self.path} has no CRS or no affine: the vector files hold pixel coordinates (x = column, y = row, "
                "from the top left corner) and no areas"
            )
        elif self.gsd is None:
            notes.append(f"{self.path} has a CRS and an affine that give its pixels no place on a globe, and no size")
        elif self.card and not 1 / _GSD_FACTOR <= self.gsd / self.card.gsd <= _GSD_FACTOR:
            notes.append(
                f"{self.path} has pixels of {self.gsd:.3g} m, but model '{self.card.name}' learned from pixels of "
                f"{self.card.gsd:.3g} m: expect poor results unless you resample it with `gdalwarp -tr`"
            )
        notes += notes_on_values(self, palette=ColorInterp.palette in dataset.colorinterp)
        # A tile needs whole strips. When those of one row of tiles do not fit the cache, each tile decodes them anew.
        tile = self.card.tile if self.card else 1024
        rows, columns = dataset.block_shapes[self.bands[0] - 1]
        row_bytes = max(rows, tile) * dataset.width * dataset.count * np.dtype(self.dtypes[0]).itemsize
        if columns == dataset.width and self.width > 2 * tile and row_bytes > DEFAULT_CACHE:
            notes.append(
                f"{self.path} is stored in strips {dataset.width} pixels wide, which each tile decodes anew: it is "
                f"read much faster after `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE {self.path} TILED.tif`"
            )
        return notes


def read_padded(
    read: Callable[[Extent], tuple[NDArray[np.float32], NDArray[np.bool_]]],
    window: Extent,
    size: tuple[int, int],
    fill: Sequence[float],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a window that may leave the raster, and put ``fill``, one number a band, where there is no data.

    Args:
        read: gives (bands, h, w) float32 and (h, w) bool of a window that lies inside the raster.
        window: any.
        size: height and width of the raster, pixels.
        fill: value of each band for pixels without data.
    """
    part = Extent(max(window.left, 0), max(window.top, 0), min(window.right, size[1]), min(window.bottom, size[0]))
    if part == window:
        values, valid = read(window)
    else:
        shape = (window.bottom - window.top, window.right - window.left)
        values, valid = np.empty((len(fill), *shape), np.float32), np.zeros(shape, bool)
        if part.left < part.right and part.top < part.bottom:
            rows = slice(part.top - window.top, part.bottom - window.top)
            columns = slice(part.left - window.left, part.right - window.left)
            values[:, rows, columns], valid[rows, columns] = read(part)
    if not valid.all():
        hole = ~valid
        for band, number in zip(values, fill, strict=True):
            band[hole] = number
    return values, valid


def _alpha_bands(dataset: Any) -> list[int]:
    colors = zip(dataset.indexes, dataset.colorinterp, strict=True)
    return [band for band, color in colors if color == ColorInterp.alpha]


def _mask_kind(flags: Sequence[MaskFlags]) -> str:
    """Where the mask of a band is: in one mask for the ``file``, in one of the ``band``, or in ``values`` and alpha."""
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return "file"
    return "values" if {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} & set(flags) else "band"


def _colormap(dataset: Any, band: int) -> dict[int, tuple[int, int, int, int]] | None:
    try:
        return dict(dataset.colormap(band))
    except ValueError:  # rasterio's way to say that there is none
        return None


def _pixels_of(bounds: tuple[float, float, float, float] | None, affine: Affine, dataset: Any, path: str) -> Extent:
    """The pixels of the raster that map bounds (left, bottom, right, top) touch."""
    whole = Extent(0, 0, dataset.width, dataset.height)
    if bounds is None:
        return whole
    left, bottom, right, top = bounds
    wanted = " ".join(f"{value:g}" for value in bounds)
    if not all(map(math.isfinite, bounds)) or left >= right or bottom >= top:
        raise GeoError(f"bounds {wanted} hold nothing; give left bottom right top, as `rio bounds {path}` prints them")
    columns, rows = zip(*(~affine @ (x, y) for x in (left, right) for y in (bottom, top)), strict=True)
    part = Extent(
        max(math.floor(min(columns) + _SNAP), whole.left),
        max(math.floor(min(rows) + _SNAP), whole.top),
        min(math.ceil(max(columns) - _SNAP), whole.right),
        min(math.ceil(max(rows) - _SNAP), whole.bottom),
    )
    if part.left >= part.right or part.top >= part.bottom:
        corners = [affine @ (x, y) for x in (0, dataset.width) for y in (0, dataset.height)]
        xs, ys = zip(*corners, strict=True)
        raise GeoError(
            f"bounds {wanted} do not meet {path}, which reaches from {min(xs):.10g} {min(ys):.10g} to "
            f"{max(xs):.10g} {max(ys):.10g} in {'its CRS' if dataset.crs else 'pixels'}"
        )
    return part
