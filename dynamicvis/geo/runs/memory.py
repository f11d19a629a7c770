"""A limit on memory as a promise: the batch size that keeps it, or a refusal."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicvis.geo.errors import GeoError
from dynamicvis.tile_model import Predictor, TileOutputs

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


@dataclass(frozen=True)
class MemoryUse:
    """What a run takes, bytes.

    Attributes:
        base: the process with its model, before the run.
        fixed: GDAL's block cache.
        decoding: blocks that the readers decode at one time, beside that cache.
        assembly: putting the rasters together, when the tiles are done.
        batch: each tile of a batch, in the model and in the queues.
        queues: what the queues hold beyond batches.
    """

    base: int
    fixed: int
    assembly: int
    batch: int
    queues: int
    decoding: int = 0

    def needed(self, batch_size: int) -> int:
        """Resident memory at the peak of a run."""
        return self.base + self.fixed + self.decoding + max(self.assembly, batch_size * self.batch + self.queues)


def memory_is_known() -> bool:
    """Whether the system tells a process what it uses."""
    return _STATUS.exists()


def measure(predict: Predictor, bands: int, tile: int, *, readers: int, cache: int, decoding: int = 0) -> MemoryUse:
    """Run a model on one empty tile, and see what a run over a scene takes.

    The model's peak is taken as proportional to the size of a batch, an upper bound as far as it has a fixed part.

    Args:
        predict: the model.
        bands: of the scene.
        tile: edge of a tile, pixels.
        readers: threads that read.
        cache: size of GDAL's block cache, bytes.
        decoding: what one reader takes to decode blocks of the scene, bytes; see `Scene.decoding_memory`.

    Raises:
        GeoError: the system does not tell a process its memory.
    """
    if not memory_is_known():
        raise GeoError("a limit on memory needs Linux, where a process can see what it uses; leave it out here")
    images = np.zeros((1, bands, tile, tile), np.float32)
    predict(images)  # What is set up once is no part of a batch.
    base = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew from here.
    outputs = predict(images)
    model = max(_resident("VmHWM") - base, 0)
    image, answer = images.nbytes + tile * tile, _size(outputs)
    queues = (readers + 1) * image + 2 * answer
    return MemoryUse(base, cache, _ASSEMBLY, model + 3 * (image + answer), queues, readers * decoding)


def fit_batch_size(use: MemoryUse, batch_size: int, limit: int) -> int:
    """The largest batch size, up to the one asked for, with which a run stays below a limit.

    Args:
        use: of the run.
        batch_size: at most so many tiles in one call.
        limit: resident memory of this process, bytes.

    Raises:
        GeoError: not even one tile at a time fits.
    """
    fitting = [size for size in range(1, batch_size + 1) if use.needed(size) <= limit]
    if not fitting:
        message = (
            f"{_megabytes(limit)} of memory are too little even for one tile at a time, which takes "
            f"{_megabytes(use.needed(1))}"
        )
        if use.decoding > use.needed(1) / 4:
            raise GeoError(
                f"{message}, {_megabytes(use.decoding)} of it to decode the blocks that the scene is stored in; allow "
                "more, read with fewer workers, or store it in small blocks with `gdal_translate -co TILED=YES`"
            )
        raise GeoError(f"{message}; allow more, or give a smaller tile")
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
