"""Names and colours of classes, as a data set's ``metainfo`` gives them."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any

Color = tuple[int, int, int]  # red, green, blue, 0 to 255


def class_names(metainfo: Mapping[str, Any]) -> tuple[str, ...]:
    """Names in the order of the labels; none where the data set gives none."""
    names = metainfo.get("classes") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def class_colors(metainfo: Mapping[str, Any]) -> tuple[Color, ...]:
    """Colours in the order of the labels, at least one for each named class: the data set's palette where it has one
    for all of them, else `class_color`.
    """
    count = len(class_names(metainfo))
    palette = metainfo.get("palette")
    # mmdet also takes the name of a palette, such as "random".
    if isinstance(palette, list | tuple) and len(palette) >= count:
        return tuple((int(red), int(green), int(blue)) for red, green, blue in palette)
    return tuple(map(class_color, range(count)))


def class_color(index: int) -> Color:
    """Colour of a class that has none: hues by the golden ratio, so that neighbours differ, in three lightnesses."""
    red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.5, 0.35, 0.7)[index % 3], 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)
