"""Scenes and rasters as pixels of a picture.

Pictures are (height, width, 4) uint8 arrays: red, green, blue, alpha.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.pictures.layers import ClassLayer, Ground, ValueLayer
from dynamicvis.model_card import ModelCard

LONG_EDGE = 2048  # pixels of a picture, at most
_PERCENTILES = (2, 98)
_MOST_VALUES = 1 << 24  # of a raster with many bands that are read for its principal components: 64 MiB

# Stops of cividis (Nunez, Anderton and Renslow, 2018), evenly spaced from 0 to 1.
RAMP = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a ``#rrggbb`` colour."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def decimated_size(height: int, width: int, long_edge: int = LONG_EDGE) -> tuple[int, int]:
    """Height and width that keep the proportions and are at most ``long_edge``; never enlarged, never below 1."""
    scale = min(1.0, long_edge / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def ground_picture(scene: Ground, card: ModelCard, height: int, width: int) -> NDArray[np.uint8]:
    """The scene itself, (height, width, 4); pixels without data are transparent.

    Bands named red, green and blue are shown as such, else the first three, or the first one in grey. Each band is
    stretched so that black and white are the 2nd and the 98th percentile of its pixels in the picture.

    Raises:
        GeoError: the scene is damaged.
    """
    values, valid = scene.read_resampled(height, width)
    picture = np.zeros((height, width, 4), np.uint8)
    for channel, band in enumerate(_visible_bands(card.bands)):
        picture[..., channel] = _stretched(values[band], valid)
    picture[..., 3] = valid * np.uint8(255)
    return picture


def class_indices(layer: ClassLayer, scene: Ground, height: int, width: int, count: int) -> NDArray[np.int16]:
    """The most frequent class in each pixel of a picture of the scene, (height, width); -1 without one.

    Args:
        count: number of classes.

    Raises:
        GeoError: the raster is damaged.
    """
    values, valid = _read(layer.path, layer.cell, scene, height, width, Resampling.mode, bands=1)
    indices = values[0].astype(np.int16)
    indices[~valid | (indices >= count)] = -1
    return indices


def class_picture(indices: NDArray[np.int16], colors: Sequence[str], hidden: Collection[int] = ()) -> NDArray[np.uint8]:
    """Class indices (height, width) as opaque colours; transparent where there is no class or a hidden one."""
    table = np.zeros((len(colors) + 1, 4), np.uint8)
    for index, color in enumerate(colors):
        if index not in hidden:
            table[index] = (*rgb(color), 255)
    return table[indices]


def class_shares(layer: ClassLayer, indices: NDArray[np.int16], count: int) -> NDArray[np.float64]:
    """Share of each of ``count`` classes, 0 to 1, of all pixels that have one: the whole raster's, or the picture's."""
    if layer.pixels is not None:
        pixels = np.asarray(layer.pixels, np.float64)
    else:
        pixels = np.bincount(indices[indices >= 0], minlength=count).astype(np.float64)
    return pixels / max(pixels.sum(), 1.0)


def share_text(share: float) -> str:
    """A share from 0 to 1 in percent; what is there is never called nothing."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def value_picture(layer: ValueLayer, scene: Ground, height: int, width: int) -> NDArray[np.uint8]:
    """A raster of values as opaque colours, (height, width, 4); transparent without data.

    Raises:
        GeoError: the raster is damaged.
    """
    values, valid = _read(layer.path, layer.cell, scene, height, width, Resampling.average)
    picture = np.zeros((*valid.shape, 4), np.uint8)
    if layer.style == "ramp":
        picture[..., :3] = ramp_colors(np.where(valid, values.mean(axis=0) / layer.highest, 0))
    else:
        for channel, band in enumerate(_principal_components(values, valid)):
            picture[..., channel] = _stretched(band, valid)
    picture[..., 3] = valid * np.uint8(255)
    rows = np.arange(height) * valid.shape[0] // height
    columns = np.arange(width) * valid.shape[1] // width
    return picture[rows[:, None], columns]


def ramp_colors(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Values from 0 to 1, of any shape, as (..., 3) colours from dark blue to yellow."""
    stops = np.array([rgb(color) for color in RAMP], np.float64)
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, places, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


def _visible_bands(names: Sequence[str]) -> list[int]:
    lower = [name.lower() for name in names]
    if {"red", "green", "blue"} <= set(lower):
        return [lower.index(color) for color in ("red", "green", "blue")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def _stretched(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Values (h, w) as bytes, black at the 2nd and white at the 98th percentile; mid-grey when these are equal."""
    if not valid.any():
        return np.zeros(values.shape, np.uint8)
    lowest, highest = np.percentile(values[valid], _PERCENTILES)
    if highest <= lowest:
        return np.full(values.shape, 128, np.uint8)
    scaled = (np.where(valid, values, lowest) - lowest) * (255 / (highest - lowest))
    return scaled.round().clip(0, 255).astype(np.uint8)


def _principal_components(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(3, h, w) first principal components of (bands, h, w), each with a fixed sign; 0 where there are fewer."""
    components = np.zeros((3, *valid.shape), np.float32)
    pixels = values[:, valid]
    if pixels.shape[1] < 2:
        return components
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    directions = np.linalg.eigh((centred @ centred.T).astype(np.float64))[1][:, ::-1][:, :3]
    # The sign of an eigenvector is arbitrary: its largest part is made positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    components[: directions.shape[1], valid] = directions.T.astype(np.float32) @ centred
    return components


def _read(
    path: str | Path,
    cell: float,
    scene: Ground,
    height: int,
    width: int,
    resampling: Resampling,
    bands: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values (bands, height, width) of the part of a raster that covers the scene, and where they are valid.

    The picture becomes smaller than asked for where the raster has many bands. Beyond the raster nothing is valid.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path) as source,
        ):
            count = bands or source.count
            if count * height * width > _MOST_VALUES:
                shrink = (_MOST_VALUES / (count * height * width)) ** 0.5
                height, width = max(1, int(height * shrink)), max(1, int(width * shrink))
            # Where the raster ends before the scene does, it covers only a part of the picture.
            covered = min(1.0, source.height * cell / scene.height), min(1.0, source.width * cell / scene.width)
            rows, columns = max(1, round(height * covered[0])), max(1, round(width * covered[1]))
            window = Window(0, 0, min(source.width, scene.width / cell), min(source.height, scene.height / cell))
            kind = np.float32 if bands is None else np.uint8
            values = np.zeros((count, height, width), kind)
            valid = np.zeros((height, width), bool)
            part = list(range(1, count + 1))
            shape = (rows, columns)
            if window.width <= columns and window.height <= rows:
                resampling = Resampling.nearest
            values[:, :rows, :columns] = source.read(
                part, window=window, out_shape=(count, *shape), resampling=resampling
            )
            valid[:rows, :columns] = source.read_masks(1, window=window, out_shape=shape) > 0
    except RasterioError as error:
        raise GeoError(f"{Path(path).name} cannot be read back for the picture ({error})") from error
    valid &= np.isfinite(values).all(axis=0)
    values[:, ~valid] = 0
    return values, valid
