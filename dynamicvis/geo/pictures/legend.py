"""The panel below or beside a quicklook: what the scene is, what the colours mean, how long a distance is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dynamicvis.geo.pictures.rendering import ramp_colors, rgb

_PAPER, _INK, _PALE = (255, 255, 255), (27, 30, 34), (98, 104, 112)
_FONT_SIZES = (13.0, 26.0)  # pixels, from small to large pictures
MOST_ENTRIES = 24


@dataclass(frozen=True)
class Entry:
    """One line of a legend.

    Attributes:
        text, note: name, and a count or share.
        color: ``#rrggbb``, or None for a line without a swatch.
        swatch: how objects of this entry are drawn.
    """

    text: str
    note: str
    color: str | None
    swatch: Literal["outline", "filled", "solid"] = "solid"


@dataclass(frozen=True)
class Legend:
    """All that a panel says.

    Attributes:
        title, summary: name of the scene; model and totals.
        entries: the first `MOST_ENTRIES` of them are shown.
        ramp: the value of the brightest colour, None without values; the darkest is 0.
        metres: edge of a pixel of the picture, None without georeference.
    """

    title: str
    summary: str
    entries: Sequence[Entry] = ()
    ramp: float | None = None
    metres: float | None = None

    def draw(self, width: int, long_edge: int) -> NDArray[np.uint8]:
        """The panel as (height, width, 4) opaque pixels, as high as it needs to be.

        Args:
            width: pixels.
            long_edge: of the picture, which gives the size of the text.
        """
        size = font_size(long_edge)
        scratch = Image.new("RGB", (width, 1), _PAPER)
        height = _Pen(scratch, size).draw(self)
        panel = Image.new("RGB", (width, height), _PAPER)
        _Pen(panel, size).draw(self)
        return np.asarray(panel.convert("RGBA"))

    def natural_width(self, long_edge: int) -> int:
        """Width of a panel with one entry on each line."""
        pen = _Pen(Image.new("RGB", (1, 1)), font_size(long_edge))
        lines = [pen.length(self.summary), min(pen.length(self.title), 22 * pen.size)]
        lines += [pen.entry_width(entry) for entry in self.entries[:MOST_ENTRIES]]
        if self.ramp or self.metres:
            lines.append(10 * pen.size)
        return math.ceil(max(lines) + 2 * pen.margin)


def font_size(long_edge: int) -> float:
    """Pixels, for a picture of this size."""
    smallest, largest = _FONT_SIZES
    return min(max(long_edge / 80, smallest), largest)


def nice_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above ``most``."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def distance_text(metres: float) -> str:
    """``"50 m"``, ``"2 km"``, ``"20 cm"``."""
    if metres >= 1000:
        return f"{metres / 1000:g} km"
    return f"{metres:g} m" if metres >= 1 else f"{metres * 100:g} cm"


class _Pen:
    """Draws a legend line by line, and so finds out how high it is."""

    def __init__(self, image: Image.Image, size: float) -> None:
        self.width = image.width
        self.size = size
        self.margin = round(size * 0.9)
        self._image = image
        self._draw = ImageDraw.Draw(image)
        self._fonts = {scale: ImageFont.load_default(size * scale) for scale in (1.0, 1.25)}
        self._top: float = self.margin

    def draw(self, legend: Legend) -> int:
        """Draw all, and return the height in pixels."""
        inner = self.width - 2 * self.margin
        bar = self._scale_bar_width(legend.metres)
        beside = bar if bar and bar < inner / 3 and inner > 30 * self.size else 0
        self._text_line(legend.title, _INK, 1.25, inner - (beside + self.size if beside else 0))
        if beside:
            self._scale_bar(legend.metres, self.width - self.margin - beside, self._top - 1.6 * self.size)
        if legend.summary:
            self._text_line(legend.summary, _PALE, 1.0, inner)
        if legend.ramp:
            self._ramp(min(inner, 14 * self.size), f"{legend.ramp:g}")
        self._entries(legend.entries)
        if bar and not beside and bar <= inner:
            self._scale_bar(legend.metres, self.margin, self._top + 0.2 * self.size)
            self._top += 1.8 * self.size
        return math.ceil(self._top + self.margin * 0.7)

    def length(self, text: str, scale: float = 1.0) -> float:
        return self._fonts[scale].getlength(text)

    def entry_width(self, entry: Entry) -> float:
        swatch = 1.5 * self.size if entry.color else 0
        return swatch + self.length(entry.text) + (0.6 * self.size + self.length(entry.note) if entry.note else 0)

    def _text_line(self, text: str, ink: tuple[int, int, int], scale: float, room: float) -> None:
        self._write(self.margin, self._top, self._elided(text, room, scale), ink, scale)
        self._top += 1.5 * self.size * scale

    def _write(self, left: float, top: float, text: str, ink: tuple[int, int, int], scale: float = 1.0) -> None:
        self._draw.text((round(left), round(top)), text, fill=ink, font=self._fonts[scale])

    def _elided(self, text: str, room: float, scale: float = 1.0) -> str:
        text = "".join(character if character.isprintable() else "?" for character in text)
        if self.length(text, scale) <= room:
            return text
        while text and self.length(text + "...", scale) > room:
            text = text[:-1]
        return text + "..."

    def _entries(self, entries: Sequence[Entry]) -> None:
        """In columns as wide as the widest entry."""
        shown = list(entries[:MOST_ENTRIES])
        if len(entries) > len(shown):
            shown.append(Entry(f"and {len(entries) - len(shown)} more", "", None))
        if not shown:
            return
        inner = self.width - 2 * self.margin
        column = min(max(map(self.entry_width, shown)) + 1.5 * self.size, inner)
        columns = max(1, int((inner + 1.5 * self.size) // column))
        self._top += 0.2 * self.size
        for index, entry in enumerate(shown):
            left = self.margin + (index % columns) * column
            self._entry(entry, left, column if columns > 1 else inner)
            if index % columns == columns - 1 or index == len(shown) - 1:
                self._top += 1.55 * self.size

    def _entry(self, entry: Entry, left: float, room: float) -> None:
        if entry.color:
            self._swatch(entry, left)
            left += 1.5 * self.size
            room -= 1.5 * self.size
        note = 0.6 * self.size + self.length(entry.note) if entry.note else 0
        text = self._elided(entry.text, room - note)
        self._write(left, self._top, text, _INK)
        if entry.note:
            self._write(left + self.length(text) + 0.6 * self.size, self._top, entry.note, _PALE)

    def _swatch(self, entry: Entry, left: float) -> None:
        color = rgb(entry.color or "#000000")
        x, y, side = round(left), round(self._top + 0.12 * self.size), round(self.size)
        box = (x, y, x + side, y + side)
        line = max(2, round(self.size / 7))
        if entry.swatch == "solid":
            self._draw.rectangle(box, fill=color)
            return
        light = tuple(round(255 + (value - 255) * 0.35) for value in color)
        self._draw.rectangle(box, fill=light if entry.swatch == "filled" else None, outline=(0, 0, 0), width=line + 1)
        inside = (x + 1, y + 1, x + side - 1, y + side - 1)
        self._draw.rectangle(inside, outline=color, width=line)

    def _ramp(self, length: float, highest: str) -> None:
        height = round(0.9 * self.size)
        low, high = self.length("0"), self.length(highest)
        width = max(1, round(length - low - high - self.size))
        bar = np.broadcast_to(ramp_colors(np.linspace(0, 1, width)), (height, width, 3))
        left, top = self.margin, self._top + 0.2 * self.size
        self._write(left, self._top, "0", _PALE)
        self._image.paste(Image.fromarray(np.ascontiguousarray(bar)), (round(left + low + self.size / 2), round(top)))
        self._write(left + low + width + self.size, self._top, highest, _PALE)
        self._top += 1.6 * self.size

    def _scale_bar_width(self, metres: float | None) -> float:
        if not metres:
            return 0.0
        length = nice_length(self.width * metres / 5)
        return length / metres + 0.5 * self.size + self.length(distance_text(length))

    def _scale_bar(self, metres: float | None, left: float, top: float) -> None:
        assert metres
        length = nice_length(self.width * metres / 5)
        right = left + length / metres
        tick, foot = 0.4 * self.size, top + 0.95 * self.size
        path = [(left, foot - tick), (left, foot), (right, foot), (right, foot - tick)]
        self._draw.line([(round(x), round(y)) for x, y in path], fill=_INK, width=max(1, round(self.size / 10)))
        self._write(right + 0.5 * self.size, top - 0.1 * self.size, distance_text(length), _INK)
