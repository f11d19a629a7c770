"""Windows that cover an area: for scenes, and for the preparation of data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """Half-open pixel rectangle: columns ``left <= x < right``, rows ``top <= y < bottom``."""

    left: int
    top: int
    right: int
    bottom: int


def starts(length: int, tile: int, stride: int, align: int = 1) -> list[int]:
    """Where tiles begin that cover ``length`` pixels: every ``stride``, and the last one at the end.

    Tiles overlap by ``tile - stride``, the last two by more where the length asks for it; a shorter length has one.

    Args:
        length: pixels, at least 1.
        tile: pixels.
        stride: pixels.
        align: the last tile begins at a multiple of this, and so ends less than so many pixels beyond the length.

    Raises:
        ValueError: the stride is not from 1 to ``tile``, so that pixels would be left out.
    """
    if not 1 <= stride <= tile:
        raise ValueError(f"the stride of tiles must be from 1 to their size {tile}, got {stride}")
    last = -(-max(length - tile, 0) // align) * align
    return [*range(0, last, stride), last]


def windows(height: int, width: int, tile: int, stride: int) -> Iterator[Extent]:
    """Tiles that cover an area, row by row, see `starts`; of an area smaller than a tile, the area."""
    for top in starts(height, tile, stride):
        for left in starts(width, tile, stride):
            yield Extent(left, top, min(left + tile, width), min(top + tile, height))
