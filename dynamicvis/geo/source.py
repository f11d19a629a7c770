"""Windowed reading of a raster, in the bands and units that a model expects."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.projection import box_corners, polygon_areas
from dynamicvis.geo.tiles import Extent
from dynamicvis.model_card import ModelCard

_GSD_FACTOR = 2.0  # a scene this much coarser or finer than the training imagery is worth a word


class Scene:
    """A raster opened for a model; only windows of it are ever read.

    Attributes:
        path: as given.
        height, width: pixels.
        crs: coordinate reference system, None for a scene that is not georeferenced.
        affine: pixel (column, row) to map (x, y); the identity for a scene that is not georeferenced.
        gsd: edge of a pixel in the middle of the scene, metres; None for a scene that is not georeferenced.
        notes: sentences for the user about the scene; none of them is an error.

    Args:
        path: anything that GDAL can open.
        card: card of the model; the scene's first ``len(card.bands)`` bands are used, alpha left aside.

    Raises:
        GeoError: no raster, too few bands, values that do not suit the card, a CRS that has no place on Earth.
    """

    def __init__(self, path: str | Path, card: ModelCard) -> None:
        self.path = str(path)
        self._card = card
        self._dataset = _open(self.path)
        try:
            self._bands = self._pick_bands()
            self.height: int = self._dataset.height
            self.width: int = self._dataset.width
            # A CRS without an affine says nothing about where the pixels are.
            georeferenced = self._dataset.crs is not None and not self._dataset.transform.is_identity
            self.crs: Any = self._dataset.crs if georeferenced else None
            self.affine: Any = self._dataset.transform if georeferenced else rasterio.Affine.identity()
            self.gsd = self._measure_gsd()
            self.notes = self._collect_notes()
        except BaseException:
            self._dataset.close()
            raise

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset.close()

    def read(self, window: Extent) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read one window; what lies outside the raster counts as NoData.

        Returns:
            values: (bands, window height, window width) float32 in raster units; pixels without data hold the
                card's mean of their band, which normalises to 0.
            valid: (window height, window width), True where there is data: by NoData value, internal or external
                mask, alpha; NaN and infinity are never data.

        Raises:
            GeoError: the file is damaged.
        """
        left, top = max(window.left, 0), max(window.top, 0)
        right, bottom = min(window.right, self.width), min(window.bottom, self.height)
        inside = (
            slice(top - window.top, bottom - window.top),
            slice(left - window.left, right - window.left),
        )
        shape = (window.bottom - window.top, window.right - window.left)
        values = np.empty((len(self._bands), *shape), np.float32)
        valid = np.zeros(shape, bool)
        part = Window(left, top, right - left, bottom - top)
        values[:, *inside], valid[inside] = self._read_part(window=part)
        for band, mean in zip(values, self._card.mean, strict=True):
            band[~valid] = mean
        return values, valid

    def read_resampled(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the whole scene resampled to ``height`` x ``width`` pixels, through overviews where it has some.

        Returns:
            values: (bands, height, width) float32 in raster units, averaged when decimated; undefined without data.
            valid: (height, width), True where there is data.

        Raises:
            GeoError: the file is damaged.
        """
        resampling = Resampling.average if height < self.height or width < self.width else Resampling.nearest
        return self._read_part(out_shape=(height, width), resampling=resampling)

    def _read_part(
        self, resampling: Resampling = Resampling.nearest, **options: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        shape = options.pop("out_shape", None)
        stack = {"out_shape": (len(self._bands), *shape)} if shape else {}
        single = {"out_shape": shape} if shape else {}
        try:
            # A NoData value beside alpha makes rasterio warn; here both count.
            with warnings.catch_warnings(action="ignore", category=NodataShadowWarning):
                raw = self._dataset.read(self._bands, resampling=resampling, **stack, **options)
                # Not dataset_mask(): that lets further bands, such as near infrared, decide for those of the model.
                valid = self._dataset.read_masks(self._bands, **stack, **options).any(axis=0)
                for alpha in self._alpha_bands():
                    valid &= self._dataset.read(alpha, **single, **options) > 0
        except RasterioError as error:
            raise GeoError(
                f"{self.path} cannot be read to its end; it is truncated or damaged, fetch it again"
            ) from error
        values = raw.astype(np.float32)
        valid &= np.isfinite(values).all(axis=0)
        for band, nodata in zip(raw, self._outlying_nodata(), strict=True):
            if nodata is not None:
                valid &= band != nodata
        return values, valid

    def _outlying_nodata(self) -> list[float | None]:
        """NoData value of each band where no data can have it; 0 or 255 of bytes, say, may be data in a single band."""
        lowest, highest = self._card.value_range
        nodata = (self._dataset.nodatavals[band - 1] for band in self._bands)
        return [None if value is None or lowest <= value <= highest else value for value in nodata]

    def _alpha_bands(self) -> list[int]:
        colors = zip(self._dataset.indexes, self._dataset.colorinterp, strict=True)
        return [band for band, color in colors if color == ColorInterp.alpha]

    def _pick_bands(self) -> list[int]:
        alpha_bands = self._alpha_bands()
        data_bands = [band for band in self._dataset.indexes if band not in alpha_bands]
        needed = len(self._card.bands)
        if len(data_bands) < needed:
            message = (
                f"{self.path} has {len(data_bands)} band{'' if len(data_bands) == 1 else 's'}, but model "
                f"'{self._card.name}' needs {needed} ({', '.join(self._card.bands)}), in this order; "
            )
            if ColorInterp.palette in self._dataset.colorinterp:
                raise GeoError(f"{message}unfold its palette with `gdal_translate -expand rgb {self.path} RGB.tif`")
            if alpha_bands:
                message += (
                    f"mark its alpha band with `gdal_edit.py -colorinterp_{alpha_bands[0]} undefined` if that is one; "
                )
            raise GeoError(
                f"{message}give a raster with these bands, or stack single ones with `gdalbuildvrt -separate`"
            )
        bands = data_bands[:needed]
        lowest, highest = self._card.value_range
        for band in bands:
            dtype = self._dataset.dtypes[band - 1]
            if not _suits(dtype, lowest, highest):
                target = "Byte" if (lowest, highest) == (0, 255) else "Float32"
                scale = "-scale" if target == "Byte" else f"-scale <lowest> <highest> {lowest:g} {highest:g}"
                raise GeoError(
                    f"{self.path} holds {dtype} values, but model '{self._card.name}' expects {lowest:g} to "
                    f"{highest:g}; convert it with `gdal_translate -ot {target} {scale} {self.path} SCALED.tif`"
                )
        return bands

    def _measure_gsd(self) -> float | None:
        if self.crs is None:
            return None
        column, row = self.width // 2, self.height // 2
        pixel = box_corners(np.array([[column, row, column + 1, row + 1]], np.float64), self.affine)
        return float(np.sqrt(polygon_areas(pixel, self.crs, self.path)[0]))

    def _collect_notes(self) -> list[str]:
        if self.gsd is None:
            return [
                f"{self.path} has no CRS or no affine: the vector files hold pixel coordinates (x = column, y = row, "
                "from the top left corner) and no areas"
            ]
        if not 1 / _GSD_FACTOR <= self.gsd / self._card.gsd <= _GSD_FACTOR:
            return [
                f"{self.path} has pixels of {self.gsd:.3g} m, but model '{self._card.name}' learned from pixels of "
                f"{self._card.gsd:.3g} m: expect poor results unless you resample it with `gdalwarp -tr`"
            ]
        return []


def _open(path: str) -> Any:
    if Path(path).is_dir():
        raise GeoError(f"{path} is a folder; name one raster file in it")
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
            return rasterio.open(path)
    except (RasterioError, ValueError) as error:
        if "No such file or directory" in str(error):
            raise GeoError(f"{path} does not exist; check the name of the scene") from error
        raise GeoError(f"{path} is no raster that GDAL can read; give a GeoTIFF or another GDAL raster") from error


def _suits(dtype: str, lowest: float, highest: float) -> bool:
    """Whether values of ``dtype`` can be meant in the units of a card's value range."""
    if dtype.startswith("complex"):
        return False
    kind = np.dtype(dtype)
    if (lowest, highest) == (0, 255):
        return kind == np.uint8
    if kind.kind == "f":
        return True
    if kind.kind not in "iu" or highest - lowest <= 1:
        return False
    return bool(np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max)
