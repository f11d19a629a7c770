"""What the numbers of a scene's bands mean: NoData, units, scale and offset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dynamicvis.geo.scene.source import Scene


def as_stored(nodata: float | None, dtype: str) -> np.generic | None:
    """A NoData value in the type of its band, or None where no pixel can have it."""
    if nodata is None or math.isnan(nodata):
        return None
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        # The largest numbers of 64 bits are none that a float holds: the nearest one means them.
        if isinstance(nodata, float) and nodata == float(limits.max):
            return kind.type(limits.max)
        if not math.isfinite(nodata) or nodata != int(nodata) or not limits.min <= nodata <= limits.max:
            return None
        return kind.type(int(nodata))
    with np.errstate(over="ignore"):
        return kind.type(nodata)


def is_sentinel(nodata: float, dtype: str, value_range: tuple[float, float] | None) -> bool:
    """Whether no data can have this value, so that one band alone tells; 0 or 255 of bytes, say, may be data in one."""
    if value_range is not None:
        return not value_range[0] <= nodata <= value_range[1]
    kind = np.dtype(dtype)
    return nodata != 0 and not (kind.kind in "iu" and nodata == np.iinfo(kind).max)


def suits(dtype: str, lowest: float, highest: float) -> bool:
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


def scaled_bands(scene: Scene) -> list[int]:
    """Indices of the bands whose numbers stand for others, by a scale or an offset."""
    pairs = zip(scene.scales, scene.offsets, strict=True)
    return [index for index, (scale, offset) in enumerate(pairs) if (scale, offset) != (1, 0)]


def notes_on_values(scene: Scene, *, palette: bool) -> Iterator[str]:
    """Sentences on numbers that may not mean what a model takes them for.

    Args:
        scene: its bands are known.
        palette: the file has a colour table.
    """
    path, card = scene.path, scene.card
    for first in scaled_bands(scene)[:1]:
        scale, offset, unit = scene.scales[first], scene.offsets[first], scene.units[first]
        text = (
            f"{path} has a scale and an offset: a number of band {scene.bands[first]} stands for "
            f"{formula(scale, offset, unit)}; the numbers are read as stored"
        )
        if card is not None:
            text += f", and model '{card.name}' expects {card.value_range[0]:g} to {card.value_range[1]:g}"
            if offset and scale:
                text += (
                    f"; 0 is stored as {-offset / scale:g} (as in Sentinel-2 from processing baseline 04.00 on), which "
                    "has to be taken off before if the model learned from numbers without an offset"
                )
        yield text
    if scene.nodata_given is not None and not math.isnan(scene.nodata_given):
        pairs = zip(scene.bands, scene.dtypes, strict=True)
        for band, dtype in [pair for pair in pairs if as_stored(scene.nodata_given, pair[1]) is None][:1]:
            yield (
                f"NoData {scene.nodata_given:g} is no value that band {band} of {path} can have ({dtype}), so no pixel "
                "there is left out by it"
            )
    if palette and card is not None and scene.count == 1:
        yield (
            f"{path} has a colour table: its numbers stand for colours, and model '{card.name}' is given the numbers; "
            "unfold it with `gdal_translate -expand gray` if they are no grey levels"
        )


def formula(scale: float, offset: float, unit: str | None) -> str:
    """What a stored number n stands for."""
    text = "n" if scale == 1 else f"n x {scale:g}"
    if offset:
        text += f" {'-' if offset < 0 else '+'} {abs(offset):g}"
    return f"{text} {unit}" if unit else text
