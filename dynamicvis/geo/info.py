"""What a model would see of a scene: behind ``dynamicvis info``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.products import product_of
from dynamicvis.geo.runs.settings import Settings
from dynamicvis.geo.scene.reading import gdal_cache
from dynamicvis.geo.scene.source import Scene
from dynamicvis.geo.stitching.grid import Extent
from dynamicvis.model_card import ModelCard

_WHOLE = 1 << 22  # pixels up to which a scene is read whole; of a larger one samples are
_SAMPLES = 8  # windows along each axis
_EXACT = 1 << 24  # up to here float32 holds every whole number
_OTHER_UNITS = 50  # values this many times smaller or larger than a model's are in other units
_MANY_BANDS = 32  # from which on fewer pixels are looked at, so that memory does not depend on the number of bands


@dataclass(frozen=True)
class BandInfo:
    """One band that is read.

    Attributes:
        number: in the file, from 1.
        name: what the file calls it, or None.
        model_name: what the model takes it for, or None without a model or where it does not fit.
        dtype: numpy's name of its type.
        nodata: its NoData value, or None.
        scale, offset, unit: what the file says its numbers stand for, number x scale + offset; the statistics are of
            the numbers as stored, which is how a model sees them.
        minimum, maximum, mean, std: of the pixels looked at that hold data; None where none does.
        normalized_mean, normalized_std: mean and standard deviation as the model sees them, 0 and 1 for imagery like
            that of its training; None without a model.
        out_of_range: share of the data outside the model's range of values, 0 to 1; None without a model.
    """

    number: int
    name: str | None
    model_name: str | None
    dtype: str
    nodata: float | None
    scale: float
    offset: float
    unit: str | None
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    normalized_mean: float | None
    normalized_std: float | None
    out_of_range: float | None


@dataclass(frozen=True)
class SceneInfo:
    """A scene as a model would see it.

    Attributes:
        path: as given.
        width, height: pixels.
        crs: its name, or None.
        bounds: left, bottom, right, top in the CRS, or None.
        pixel_size: metres, or None.
        bands: those that are read.
        mask: whether a mask or alpha band, and not only values, says what is data.
        nodata_share: share of the pixels looked at without data, 0 to 1.
        sampled: share of the scene's pixels that were looked at, 0 to 1.
        model: name of the model, or None.
        model_pixel_size: metres, or None.
        fits: whether the model can be run on the scene; None without a model.
        reason: why it cannot, or None.
        tile, overlap, tiles: edge, overlap (pixels) and number of the model's tiles, or None.
        notes: sentences about the scene.
    """

    path: str
    width: int
    height: int
    crs: str | None
    bounds: tuple[float, float, float, float] | None
    pixel_size: float | None
    bands: tuple[BandInfo, ...]
    mask: bool
    nodata_share: float
    sampled: float
    model: str | None
    model_pixel_size: float | None
    fits: bool | None
    reason: str | None
    tile: int | None
    overlap: int | None
    tiles: int | None
    notes: tuple[str, ...]


def describe_scene(
    path: str | Path,
    card: ModelCard | None = None,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> SceneInfo:
    """Look at a scene as a model would.

    Statistics of a scene of more than four million pixels are those of 64 windows spread over it, so that the answer
    takes a second for a scene of any size. With more than 32 bands there are as many fewer pixels.

    Args:
        path, bands, nodata, bounds: as for `Scene`.
        card: of the model.
        tile, overlap: pixels; the card's if not given.

    Raises:
        GeoError: no raster at all, or one that is damaged. That it does not fit the card is no error.
    """
    options: dict[str, Any] = {"bands": bands, "nodata": nodata, "bounds": bounds}
    reason = None
    try:
        scene = Scene(path, card, **options)
    except GeoError as error:
        if card is None:
            raise
        reason = str(error)
        scene = Scene(path, None, **options)
    with scene, gdal_cache():
        if card and reason is None and not scene.georeferenced:
            reason = f"{path} has no place on a map, which results need (no CRS or no affine)"
        return _describe(scene, card, reason, tile, overlap)


def _describe(
    scene: Scene, card: ModelCard | None, reason: str | None, tile: int | None, overlap: int | None
) -> SceneInfo:
    values, looked_at = _sample(scene)
    size: tuple[int | None, int | None] = (None, None)
    tiles = None
    if card:
        size = Settings(tile=tile, overlap=overlap).tiling(card.tile, card.overlap)
        tiles = len(product_of(card).make_grid(card, scene.height, scene.width, *size))
    found = tuple(_band(scene, index, values[index]) for index in range(scene.count))
    return SceneInfo(
        path=scene.path,
        width=scene.width,
        height=scene.height,
        crs=scene.crs.to_string() if scene.crs else None,
        bounds=_bounds(scene) if scene.georeferenced else None,
        pixel_size=scene.gsd,
        bands=found,
        mask=scene.has_mask,
        nodata_share=1 - values.shape[1] / looked_at,
        sampled=looked_at / (scene.width * scene.height),
        model=card.name if card else None,
        model_pixel_size=card.gsd if card else None,
        fits=reason is None if card else None,
        reason=reason,
        tile=size[0],
        overlap=size[1],
        tiles=tiles,
        notes=(*scene.notes, *_notes_on_units(scene, card, found)),
    )


def _notes_on_units(scene: Scene, card: ModelCard | None, bands: Sequence[BandInfo]) -> Iterator[str]:
    """Sentences where the values look as if they were in other units than the model's, or are too large."""
    known = [(band.minimum, band.maximum) for band in bands if band.minimum is not None and band.maximum is not None]
    if not known:
        return
    lowest, highest = min(low for low, _ in known), max(high for _, high in known)
    if max(-lowest, highest) >= _EXACT and any(np.dtype(dtype).kind in "iu" for dtype in scene.dtypes):
        yield f"{scene.path} holds whole numbers from {_EXACT} on, which are rounded to float32 when they are read"
    if card is None:
        return
    largest, expected = max(-lowest, highest), max(map(abs, card.value_range))
    text = (
        f"{scene.path} holds values of {lowest:.4g} to {highest:.4g}, but model '{card.name}' expects "
        f"{card.value_range[0]:g} to {card.value_range[1]:g}"
    )
    if 0 < largest < expected / _OTHER_UNITS:
        factor = f"by {expected:g} " if largest <= 1 else ""
        yield f"{text}; if they are in other units (fractions, say), multiply them {factor}first"
    elif largest > expected * _OTHER_UNITS:
        yield f"{text}; if they are in other units, convert them (`gdal_translate -unscale` applies scale and offset)"


def _band(scene: Scene, index: int, values: NDArray[np.float32]) -> BandInfo:
    card = scene.card
    mean = float(values.mean(dtype=np.float64)) if len(values) else None
    std = float(values.std(dtype=np.float64)) if len(values) else None
    normalized: tuple[float | None, float | None] = (None, None)
    outside = None
    if card and mean is not None and std is not None:
        normalized = ((mean - card.mean[index]) / card.std[index], std / card.std[index])
        outside = float(((values < card.value_range[0]) | (values > card.value_range[1])).mean())
    return BandInfo(
        number=scene.bands[index],
        name=scene.descriptions[index],
        model_name=card.bands[index] if card else None,
        dtype=scene.dtypes[index],
        nodata=scene.nodatavals[index],
        scale=scene.scales[index],
        offset=scene.offsets[index],
        unit=scene.units[index],
        minimum=float(values.min()) if len(values) else None,
        maximum=float(values.max()) if len(values) else None,
        mean=mean,
        std=std,
        normalized_mean=normalized[0],
        normalized_std=normalized[1],
        out_of_range=outside,
    )


def _sample(scene: Scene) -> tuple[NDArray[np.float32], int]:
    """Values (bands, N) of the pixels with data among those looked at, and the number of the latter."""
    parts, looked_at = [], 0
    for window in _windows(scene.height, scene.width, scene.count):
        values, valid = scene.read(window)
        # Unlike an index, this leaves the values of a band side by side.
        parts.append(np.compress(valid.ravel(), values.reshape(len(values), -1), axis=1))
        looked_at += valid.size
    return np.concatenate(parts, axis=1), looked_at


def _windows(height: int, width: int, bands: int) -> Iterator[Extent]:
    pixels = int(_WHOLE / max(1.0, bands / _MANY_BANDS))
    if height * width <= pixels:
        yield Extent(0, 0, width, height)
        return
    # Each read of many bands takes a while of its own, so that there are fewer and not smaller windows.
    along = _SAMPLES if bands <= _MANY_BANDS else 2
    edge = max(1, math.isqrt(pixels) // along)
    for top in _starts(height, edge, along):
        for left in _starts(width, edge, along):
            yield Extent(left, top, min(left + edge, width), min(top + edge, height))


def _starts(size: int, edge: int, along: int) -> list[int]:
    """Where samples begin along an axis: spread from end to end without overlap."""
    count = max(1, min(along, size // edge))
    return np.linspace(0, max(size - edge, 0), count).astype(int).tolist()


def _bounds(scene: Scene) -> tuple[float, float, float, float]:
    xs, ys = zip(*(scene.affine @ (x, y) for x in (0, scene.width) for y in (0, scene.height)), strict=True)
    return min(xs), min(ys), max(xs), max(ys)
