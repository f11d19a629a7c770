"""A picture of the scene with the boxes on it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from dynamicvis.geo.detect import Detections
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.source import Scene
from dynamicvis.model_card import ModelCard

_LONG_EDGE = 2048  # pixels, at most
_SMALL_EDGE = 1024  # a smaller scene is enlarged by a whole number up to this edge, so that lines stay thin
_LARGEST_ZOOM = 4
_HALO = (0, 0, 0)


def write_quicklook(path: str | Path, detections: Detections, scene: Scene, card: ModelCard) -> None:
    """Write an RGBA PNG of the scene, at most 2048 pixels along its long edge, with a box around each object.

    Values are shown by the card's value range, never stretched; pixels without data are transparent. Each box has its
    class's colour from the card and a thin dark halo, so that it shows on bright and dark ground. Bands named red,
    green and blue are shown as such, else the first three, or the first one in grey.

    Raises:
        GeoError: the scene is damaged, or the file cannot be written.
    """
    height, width = _picture_size(scene.height, scene.width)
    values, valid = scene.read_resampled(height, width)
    picture = np.empty((4, height, width), np.uint8)
    picture[:3] = _to_bytes(values[_visible_bands(card.bands)], valid, card.value_range)
    picture[3] = valid * np.uint8(255)
    scale = np.array([width / scene.width, height / scene.height] * 2)
    _draw_boxes(picture, detections.boxes * scale, detections.labels, card.colors)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path, "w", driver="PNG", width=width, height=height, count=4, dtype="uint8") as sink,
        ):
            sink.write(picture)
    except (CPLE_BaseError, RasterioError) as error:
        raise GeoError(f"{Path(path).name} cannot be written ({error}); check the folder and its free space") from error


def _picture_size(height: int, width: int) -> tuple[int, int]:
    long_edge = max(height, width)
    if long_edge > _LONG_EDGE:
        scale = _LONG_EDGE / long_edge
        return max(1, round(height * scale)), max(1, round(width * scale))
    zoom = min(_LARGEST_ZOOM, max(1, _SMALL_EDGE // long_edge))
    return height * zoom, width * zoom


def _visible_bands(names: tuple[str, ...]) -> list[int]:
    lower = [name.lower() for name in names]
    if {"red", "green", "blue"} <= set(lower):
        return [lower.index(color) for color in ("red", "green", "blue")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]


def _to_bytes(
    values: NDArray[np.float32], valid: NDArray[np.bool_], value_range: tuple[float, float]
) -> NDArray[np.uint8]:
    lowest, highest = value_range
    scaled = np.where(valid, (values - lowest) * (255 / (highest - lowest)), 0)
    return scaled.round().clip(0, 255).astype(np.uint8)


def _line_width(boxes: NDArray[np.float64], long_edge: int) -> int:
    """Pixels: wide enough for the picture, narrow enough for the boxes, which are many and small in a large scene."""
    side = float(np.median(boxes[:, 2:] - boxes[:, :2])) if len(boxes) else 0.0
    return round(min(max(min(long_edge / 300, side / 10), 1), 4))


def _draw_boxes(
    picture: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64], colors: tuple[str, ...]
) -> None:
    """Draw on a (4, height, width) RGBA picture; all halos first, then the lines, best object last."""
    height, width = picture.shape[1:]
    line = _line_width(boxes, max(height, width))
    palette = [tuple(int(color[start : start + 2], 16) for start in (1, 3, 5)) for color in colors]
    corners = boxes.round().astype(np.int64)
    for halo in (1, 0):
        for (left, top, right, bottom), label in zip(corners[::-1], labels[::-1], strict=True):
            color = np.array([*(_HALO if halo else palette[label]), 255], np.uint8)[:, None, None]
            # The line runs inside the box's edges, at least one line wide and never off the picture.
            left, top = min(left, width - line), min(top, height - line)
            right, bottom = max(right, left + line), max(bottom, top + line)
            rows = slice(max(top - halo, 0), bottom + halo)
            columns = slice(max(left - halo, 0), right + halo)
            for edge in (left, right - line):
                picture[:, rows, max(edge - halo, 0) : edge + line + halo] = color
            for edge in (top, bottom - line):
                picture[:, max(edge - halo, 0) : edge + line + halo, columns] = color


# New signature (this file is being rewritten to it):
#     write_quicklook(path: str | Path, scene: Scene, card: ModelCard, layer: Layer) -> None
# and in preview.py:
#     write_preview(path: str | Path, scene: Scene | ScenePair, card: ModelCard, layers: Sequence[Layer]) -> None
# A pair shows its after date; the preview lets the viewer switch between both.
