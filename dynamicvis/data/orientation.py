"""Which way up a picture is shown: what cameras write beside pixels that they leave as the sensor had them.

Viewers, browsers, annotation tools, Pillow's and OpenCV's readers turn a picture by it, so that annotations are in the
pixels of the turned one. GDAL does not, in TIFF as little as in JPEG: a georeference is that of the pixels as stored.
So here a picture is turned unless it has a georeference.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

_TAG = 274  # of TIFF, and so of EXIF
_SHORT, _LONG = 3, 4


def orientation(dataset: Any, source: Path | bytes) -> int:
    """How an open raster is to be turned, as EXIF numbers it: 1, not at all, to 8; from 5 on its sides change places.

    Args:
        dataset: opened by rasterio.
        source: the file that it is, or its content.
    """
    placed = dataset.crs is not None or not dataset.transform.is_identity or dataset.gcps[0] or dataset.rpcs
    if placed or dataset.driver not in ("JPEG", "PNG", "WEBP", "GTiff"):
        return 1
    if dataset.driver == "JPEG":
        value = dataset.tags().get("EXIF_Orientation", "").strip()
        found = int(value) if value.isdecimal() else 1
    else:
        find = {"PNG": _of_png, "WEBP": _of_webp, "GTiff": _of_tiff}[dataset.driver]
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            try:
                found = find(file)
            except struct.error:  # cut off: whether it is damaged is for the reader of the pixels to say
                found = 1
    return found if 1 <= found <= 8 else 1


def decoded_photo(dataset: Any, source: Path | bytes) -> NDArray[np.uint8] | None:
    """Pixels (H, W, C) of a JPEG in grey or RGB as viewers have them, not yet turned; None for any other file.

    GDAL's JPEG library interpolates colours differently, by tens of levels at sharp edges.

    Args:
        dataset: opened by rasterio.
        source: the file that it is, or its content.

    Raises:
        OSError: the file is cut off or damaged.
    """
    if dataset.driver != "JPEG":
        return None
    with JpegImageFile(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if image.mode not in ("L", "RGB") or len(image.getbands()) != dataset.count:
            return None
        return np.atleast_3d(np.asarray(image))


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View of an image (H, W, ...) as it is to be shown, (H, W, ...) or (W, H, ...)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return image[rows, columns]


def _of_tiff(file: BinaryIO) -> int:
    """Of the first directory of a TIFF, or of EXIF, which has the same form; 1 where it says nothing."""
    begin = file.tell()
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return 1
    big = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    (first,) = struct.unpack_from(f"{order}Q", head, 8) if big else struct.unpack_from(f"{order}I", head, 4)
    file.seek(begin + first)
    (count,) = struct.unpack(f"{order}Q", file.read(8)) if big else struct.unpack(f"{order}H", file.read(2))
    size, at = (20, 12) if big else (12, 8)
    for _ in range(min(count, 65535)):
        entry = file.read(size)
        tag, kind = struct.unpack_from(f"{order}HH", entry)
        if tag == _TAG and kind in (_SHORT, _LONG):
            return struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", entry, at)[0]
    return 1


def _of_png(file: BinaryIO) -> int:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return _of_exif(file.read(length))
        file.seek(length + 4, io.SEEK_CUR)
    return 1


def _of_webp(file: BinaryIO) -> int:
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return _of_exif(file.read(length))
        file.seek(length + length % 2, io.SEEK_CUR)
    return 1


def _of_exif(content: bytes) -> int:
    return _of_tiff(io.BytesIO(content.removeprefix(b"Exif\0\0")))
