"""What a TIFF says about where its blocks lie, held against the file that is there.

GDAL's own view of the blocks is not enough for that: it shows a file of a single strip as one strip a row, and does not
tell how many blocks the file lists.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _STRIP_ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # places and sizes
_TAGS = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _STRIP_ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT}
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_BAND_BY_BAND = 2
_MOST_IMAGES = 1 << 12  # of one file that are looked at
_OLD_JPEG = 6  # keeps its places in other tags

# Bytes of a decoded block that one byte of the file can stand for at most, by compression: none (with chroma
# subsampling), LZW, deflate twice, PackBits. Header damage shows in sizes beyond it.
_LARGEST_EXPANSION = {1: 2, 5: 4096, 8: 1100, 32946: 1100, 32773: 128}
_ANY_EXPANSION = 1 << 20
# A file that lists none of its blocks may have up to this many blocks and pixels.
_MOST_UNWRITTEN, _MOST_UNWRITTEN_PIXELS = 1 << 24, 1 << 36
_LARGEST_UNWRITTEN = 1 << 28  # bytes of a block, decoded


class _TruncatedError(Exception):
    """The file ends before what is read."""


def problem_of_tiff(path: Path) -> str | None:
    """What is wrong with the blocks of a TIFF's first image: ``"truncated"``, ``"damaged"``, None where nothing is.

    A file is truncated when a block, or a directory of any of its images (overviews and masks are such), ends beyond
    the file, and damaged when it lists fewer blocks than its size in
    pixels needs, or when a block is too small for the pixels that it stands for. Blocks that were never written are
    neither; but a file that consists of nothing else, and claims very many of them or gigantic ones, is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            directories = list(_directories(file, size))
        except _TruncatedError:
            return "truncated"
    tags = directories[0] if directories else {}
    places, sizes = (tags.get(tag) for tag in (_TILES if _TILES[0] in tags else _STRIPS))
    if places is None or _WIDTH not in tags or _HEIGHT not in tags or _first(tags, _COMPRESSION, 1) == _OLD_JPEG:
        return None  # GDAL opens no such file, or knows better.
    width, height = _first(tags, _WIDTH, 0), _first(tags, _HEIGHT, 0)
    tiled = _TILE_WIDTH in tags
    columns = max(_first(tags, _TILE_WIDTH, width), 1)
    rows = _first(tags, _TILE_HEIGHT, height) if tiled else min(_first(tags, _STRIP_ROWS, height), height)
    down = -(-height // max(rows, 1))
    samples = _first(tags, _SAMPLES, 1)
    by_band = _first(tags, _PLANAR, 1) == _BAND_BY_BAND
    wanted = -(-width // columns) * down * (samples if by_band else 1)
    bits = _first(tags, _BITS, 1) * (1 if by_band else samples)
    if not places.any():
        large = wanted > _MOST_UNWRITTEN or width * height > _MOST_UNWRITTEN_PIXELS
        return "damaged" if large or rows * columns * bits // 8 > _LARGEST_UNWRITTEN else None
    if len(places) < wanted:
        return "damaged"
    places = places[:wanted]
    if sizes is None or len(sizes) < wanted:
        return "truncated" if places.max() >= size else None
    sizes = sizes[:wanted]
    written = (places > 0) & (sizes > 0)
    # Compared without a sum, which may be larger than 64 bits.
    if (written & ((places > size) | (sizes > size - np.minimum(places, size)))).any():
        return "truncated"
    rows_here = np.full(wanted, rows, np.float64)
    if not tiled:  # The last strip ends with the raster; tiles are always whole.
        rows_here.reshape(-1, down)[:, -1] = height - (down - 1) * rows
    expansion = _LARGEST_EXPANSION.get(_first(tags, _COMPRESSION, 1), _ANY_EXPANSION)
    decoded = np.ceil(float(columns) * bits / 8) * rows_here
    return "damaged" if (written & (decoded > sizes * float(expansion))).any() else None


def _first(tags: Mapping[int, NDArray[np.uint64]], tag: int, default: int) -> int:
    return int(tags[tag][0]) if tag in tags and len(tags[tag]) else default


def _directories(file: BinaryIO, size: int) -> Iterator[dict[int, NDArray[np.uint64]]]:
    """Values of the tags that are needed, by tag, of each image of a file; of none where it is no TIFF.

    Raises:
        _TruncatedError: a directory, or a table of places or sizes, ends beyond the file.
    """
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return
    big = struct.unpack(f"{order}H", start[2:4])[0] == 43
    pointer, number, inline = ("Q", "Q", 8) if big else ("I", "H", 4)
    entry = struct.Struct(f"{order}HH{pointer}{inline}s")
    (place,) = struct.unpack(f"{order}{pointer}", start[8:16] if big else start[4:8])
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MOST_IMAGES:
        seen.add(place)
        file.seek(min(place, size))
        (count,) = _unpack(file, f"{order}{number}")
        if count * entry.size > size:
            raise _TruncatedError
        tags = {}
        for tag, kind, length, value in entry.iter_unpack(_exactly(file, count * entry.size)):
            if kind in _TYPES and tag in {*_TAGS, *_STRIPS, *_TILES}:
                code = np.dtype(f"{order}{_TYPES[kind]}")
                needed = length * code.itemsize
                if needed > inline:
                    (start_of_values,) = struct.unpack(f"{order}{pointer}", value)
                    if start_of_values + needed > size:
                        raise _TruncatedError
                    here = file.tell()
                    file.seek(start_of_values)
                    value = _exactly(file, needed)
                    file.seek(here)
                tags[tag] = np.frombuffer(value, code, length).astype(np.uint64)
        yield tags
        (place,) = _unpack(file, f"{order}{pointer}")


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise _TruncatedError
    return content


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, _exactly(file, struct.calcsize(form)))
