"""Memory that GDAL takes to decode the blocks of a raster, which may be much larger than a tile."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from dynamicvis.geo.scene.reading import files_within, without_warnings
from dynamicvis.raster_files import RasterFileError, open_raster

# Formats that are decoded as a whole, or may be (progressive JPEG, interlaced PNG), whatever blocks GDAL shows.
_AS_A_WHOLE = ("JPEG", "PNG", "WEBP", "GIF", "JPEGXL", "HEIF", "AVIF")
_SAMPLE = 4  # bytes that a value of JPEG 2000 is decoded to
_POOL = 450  # sources of a virtual raster that GDAL keeps open, each with its last block
_OVERHEAD = 1.05  # of what does not compress


def decoding_memory(dataset: Any) -> int:
    """Bytes, at most, that a thread takes to read a window, beside GDAL's cache of blocks and the window itself.

    A block of all bands is held as it is stored and as it is decoded; two bands of it lie in the cache at once, however
    small that is to be. (Measured: GeoTIFF with 48 MiB in a block of three bands takes 81 MiB, 121 when it does not
    compress.) Of a virtual raster, its sources count, and a mask beside the file does.

    Args:
        dataset: open for reading.
    """
    return _own(dataset) + _of_files(dataset.files[1:], parts=dataset.driver == "VRT")


def _own(dataset: Any) -> int:
    if dataset.count == 0 or dataset.driver == "VRT":
        return 0
    sizes = [np.dtype(dtype).itemsize for dtype in dataset.dtypes]
    if dataset.driver in _AS_A_WHOLE:
        return dataset.width * dataset.height * sum(max(size, 2) for size in sizes)
    by_pixel = dataset.interleaving is None or dataset.interleaving.value.lower() == "pixel"
    bands = [rows * columns * size for (rows, columns), size in zip(dataset.block_shapes, sizes, strict=True)]
    decoded = sum(bands) if by_pixel else max(bands)
    if dataset.driver.startswith("JP2"):
        decoded = decoded // min(sizes) * _SAMPLE
    files = [file for name in dataset.files[:1] for file in files_within(name)]
    stored = min([int(decoded * _OVERHEAD), *(file.stat().st_size for file in files)])
    return decoded + stored + 2 * max(bands)


def _of_files(names: Iterable[str], *, parts: bool) -> int:
    """The same of the files that belong to a raster: its mask, or the parts of a mosaic."""
    needed = []
    for name in names:
        if not parts and not name.endswith(".msk"):
            continue
        with (
            suppress(RasterioError, RasterFileError, OSError),
            without_warnings(NotGeoreferencedWarning),
            open_raster(name) as source,
        ):
            needed.append(decoding_memory(source))
    return sum(sorted(needed)[-_POOL:])
