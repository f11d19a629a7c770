"""Pictures of samples: image, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Panel = Image.Image
Color = tuple[int, int, int]

_EDGE = 320  # pixels of a cell
_GAP = 6
_CAPTION = 20
_BACKGROUND = (255, 255, 255)
_INK = (20, 20, 20)
_WRONG = (200, 30, 30)
_HALO = (0, 0, 0)


@dataclass(frozen=True)
class Shown:
    """An image as it is shown.

    Attributes:
        pixels: (height, width, 3), uint8.
        size: (width, height) of the image that boxes refer to.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]

    @staticmethod
    def resized(image: NDArray, size: tuple[int, int] | None) -> NDArray:
        """(bands, height, width) at another (width, height), bands of any number and numeric type."""
        if size is None or (image.shape[2], image.shape[1]) == size:
            return image
        # OpenCV resizes neither all types nor, with all methods, more than four bands.
        bands = [cv2.resize(band.astype(np.float32), size, interpolation=cv2.INTER_AREA) for band in image]
        resized = np.stack(bands)
        return resized.round().astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else resized


def show(dates: Sequence[NDArray], bands: tuple[int, int, int]) -> list[Shown]:
    """The bands (red, green, blue) of images (bands, height, width), one a date.

    Images of 8 bits with up to three bands are shown as they are; others are stretched from the 2nd to the 98th
    percentile of each band, the same for all dates.
    """
    pictures = [date[list(bands)].transpose(1, 2, 0).astype(np.float32) for date in dates]
    if dates[0].dtype != np.uint8 or dates[0].shape[0] > 3:
        values = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
        low, high = np.nanpercentile(values, (2, 98), axis=0)
        pictures = [(picture - low) / np.maximum(high - low, 1e-6) * 255 for picture in pictures]
    return [
        Shown(np.nan_to_num(picture).clip(0, 255).round().astype(np.uint8), (picture.shape[1], picture.shape[0]))
        for picture in pictures
    ]


def class_map(values: NDArray, palette: NDArray[np.uint8]) -> Panel:
    """Classes (height, width) of 0 to 255 in the colours of a palette (256, 3)."""
    return _fitted(Image.fromarray(palette[values.clip(0, 255).astype(np.uint8)]), Image.Resampling.NEAREST)


def instances(
    picture: Shown,
    boxes: NDArray,
    colors: Sequence[Color],
    captions: Sequence[str],
    masks: NDArray | None = None,
) -> Panel:
    """The image with objects on it: boxes (N, 4) xyxy in its pixels, masks (N, height, width) of bool."""
    pixels = picture.pixels.astype(np.float32)
    for mask, color in zip(() if masks is None else masks, colors, strict=False):
        if mask.shape == pixels.shape[:2]:
            pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(color, np.float32)
    panel = _fitted(Image.fromarray(pixels.astype(np.uint8)))
    draw = ImageDraw.Draw(panel)
    scale_x, scale_y = panel.width / picture.size[0], panel.height / picture.size[1]
    # Captions where there is room to read them.
    named = len(boxes) <= 12
    for (left, top, right, bottom), color, caption in zip(boxes.tolist(), colors, captions, strict=True):
        corners = [left * scale_x, top * scale_y, max(left, right) * scale_x, max(top, bottom) * scale_y]
        draw.rectangle([corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1], outline=_HALO, width=4)
        draw.rectangle(corners, outline=color, width=2)
        if named:
            where = (min(corners[0] + 2, panel.width - 40), max(0, corners[1] - 12))
            draw.text(where, caption, fill=color, font=_font(11), stroke_width=1, stroke_fill=_HALO)
    return panel


def labels(lines: Sequence[str], wrong: bool = False) -> Panel:
    """Lines of text."""
    panel = Image.new("RGB", (_EDGE, _EDGE), _BACKGROUND)
    draw = ImageDraw.Draw(panel)
    for row, line in enumerate(lines[:14]):
        draw.text((8, 8 + 22 * row), line[:40], fill=_WRONG if wrong and row == 0 else _INK, font=_font(15))
    return panel


class Sheet:
    """Rows of a sheet: one a sample, with its image (of every date), the truth and the prediction."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, list[Panel]]] = []

    def add(self, name: str, pictures: Sequence[Shown], truth: Panel, prediction: Panel) -> None:
        """Add a row."""
        images = [_fitted(Image.fromarray(picture.pixels)) for picture in pictures]
        self._rows.append((name, [*images, truth, prediction]))

    def save(self, path: Path) -> None:
        """Write the sheet as PNG."""
        columns = max(len(panels) for _, panels in self._rows)
        dates = columns - 2
        titles = ["image"] if dates == 1 else [f"date {number}" for number in range(1, dates + 1)]
        step = _EDGE + _GAP
        heights = [max(panel.height for panel in panels) for _, panels in self._rows]
        height = _CAPTION + sum(heights) + len(self._rows) * (_GAP + _CAPTION)
        sheet = Image.new("RGB", (columns * step + _GAP, height), _BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for column, title in enumerate([*titles, "truth", "prediction"]):
            draw.text((_GAP + column * step, 2), title, fill=_INK, font=_font(14))
        top = _CAPTION
        for (name, panels), tallest in zip(self._rows, heights, strict=True):
            for column, panel in enumerate(panels):
                sheet.paste(panel, (_GAP + column * step, top))
            draw.text((_GAP, top + tallest + 2), name, fill=_INK, font=_font(12))
            top += tallest + _GAP + _CAPTION
        sheet.save(path)


def _fitted(picture: Panel, method: Image.Resampling | None = None) -> Panel:
    """As large as a cell allows."""
    scale = _EDGE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if method is None:
        method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return picture.resize(size, method)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
