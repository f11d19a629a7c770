"""A limit on memory as a promise: the batch size that keeps it, or a refusal."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.products import Predictor, TileOutputs

_STATUS = Path("/proc/self/status")
# What putting the rasters together takes besides the block cache: a window of each, and GDAL's compressing threads.
_ASSEMBLY = 192 * 2**20


def parse_size(text: str) -> int:
    """Bytes of a size such as ``"4GB"``, ``"512 MiB"`` or ``"2e9"``; units are powers of 1024.

    Raises:
        GeoError: no size.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    if match is None:
        raise GeoError(f"'{text}' is no amount of memory; give it like 4GB or 512MB")
    with suppress(ValueError):
        return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))
    raise GeoError(f"'{text}' is no amount of memory; give it like 4GB or 512MB")


def fit_batch_size(
    predict: Predictor, bands: int, tile: int, *, batch_size: int, readers: int, cache: int, limit: int
) -> int:
    """The largest batch size, up to the one asked for, with which a run stays below a limit.

    The model is run on one empty tile, and its peak is taken as proportional to the size of a batch, which is an upper
    bound as far as it has a fixed part.

    Args:
        predict: the model, loaded.
        bands: of the scene.
        tile: edge of a tile, pixels.
        batch_size: at most so many tiles in one call.
        readers: threads that read.
        cache: size of GDAL's block cache, bytes.
        limit: resident memory of this process, bytes.

    Raises:
        GeoError: not even one tile at a time fits, or the system does not tell a process its memory.
    """
    if not _STATUS.exists():
        raise GeoError("a limit on memory needs Linux, where a process can read what it uses; leave it out here")
    images = np.zeros((1, bands, tile, tile), np.float32)
    predict(images)  # What is set up once is no part of a batch.
    base = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew from here.
    outputs = predict(images)
    model = max(_resident("VmHWM") - base, 0)
    image, answer = images.nbytes + tile * tile, _size(outputs)

    def needed(size: int) -> int:
        tiles = (3 * size + readers + 1) * image + (3 * size + 2) * answer
        return base + cache + max(_ASSEMBLY, size * model + tiles)

    fitting = [size for size in range(1, batch_size + 1) if needed(size) <= limit]
    if not fitting:
        raise GeoError(
            f"{_megabytes(limit)} of memory are too little for one tile of {tile} x {tile} pixels at a time, which "
            f"takes {_megabytes(needed(1))}; allow more, or give a smaller tile"
        )
    return fitting[-1]


def _size(outputs: TileOutputs) -> int:
    maps = sum(values.nbytes for values in outputs.maps.values())
    masks = sum(found.masks.nbytes for found in outputs.objects or () if found.masks is not None)
    return maps + masks


def _resident(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"
