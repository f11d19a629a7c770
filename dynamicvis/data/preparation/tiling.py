"""Cutting of scenes into tiles."""

from __future__ import annotations

from collections.abc import Iterator


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles begin that cover ``length`` pixels: every ``stride``, and the last one at the end.

    Tiles overlap by ``tile - stride``, the last two by more where the length asks for it; a shorter length has one.

    Raises:
        ValueError: the stride is not from 1 to ``tile``, so that pixels would be left out.
    """
    if not 1 <= stride <= tile:
        raise ValueError(f"the stride of tiles must be from 1 to their size {tile}, got {stride}")
    last = max(length - tile, 0)
    return [*range(0, last, stride), last]


def windows(height: int, width: int, tile: int, stride: int) -> Iterator[tuple[int, int]]:
    """Row and column, pixels, of the upper left corner of every tile, see `starts`."""
    for top in starts(height, tile, stride):
        for left in starts(width, tile, stride):
            yield top, left
