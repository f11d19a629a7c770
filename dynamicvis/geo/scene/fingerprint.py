"""What tells the raster at a path from another one: its files, their content, and what GDAL makes of them."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from dynamicvis.geo.scene.reading import files_within, without_warnings
from dynamicvis.raster_files import RasterFileError, open_raster

_WHOLE = 32 << 20  # bytes of all files of a raster up to which they are read to their end
_SAMPLES, _SAMPLE = 64, 256 << 10  # number and bytes of the pieces that are read of more
_SMALL = 64 << 10  # bytes of a file that is read to its end beside larger ones
_MANY = 256  # files; of more, such as the parts of a mosaic, none is read beyond the samples
_TIMEOUT = 10  # seconds for the answer of a server
_SIDE_FILES = (".aux.xml", ".msk", ".msk.ovr", ".ovr", "w")  # added to the name; "w": tif -> tifw
_SIDE_SUFFIXES = (".wld", ".prj", ".rpb", "_rpc.txt", ".rpc")  # in place of the suffix


def fingerprint(dataset: Any, path: str) -> dict[str, Any]:
    """Identify an open raster, as JSON.

    The path is resolved. The content is that of all local files that GDAL reads the raster from: the file itself or the
    archive around it, side files (``.aux.xml`` without the statistics that viewers write, ``.ovr``, ``.msk``, world
    files, ``.prj``, RPCs), and the sources of a virtual raster with their own ones. Files of at most 32 MiB in all are
    read to their end; of larger ones size, time of change and 64 pieces of 256 KiB from the first byte to the last are
    taken, which costs less than a second. So a change to a large file escapes only where it leaves size and time as
    they were and lies between the pieces. Of a remote raster three blocks are read, and the server is asked for its
    ``ETag``, time of change and size where it speaks HTTP.

    Args:
        dataset: open for reading, in GDAL's settings for it.
        path: as given by the user.

    Returns:
        ``path``, ``content`` and ``properties`` (CRS, affine, types, NoData, scales, masks, colours, names), and for a
        remote raster ``checksum`` and ``headers``.
    """
    names = {path, *dataset.files}
    files = {name: [file.resolve() for file in files_within(name)] for name in names}
    local = sorted({file for found in files.values() for file in found})
    local = sorted({*local, *_sources(local)})
    local = sorted({*local, *_side_files(local)})
    stamp: dict[str, Any] = {
        "path": str(Path(path).resolve()) if Path(path).exists() else path,
        "content": _content(local, sorted(name for name, found in files.items() if not found)),
        "properties": _properties(dataset),
    }
    if not local or any(name.startswith("/vsi") for name, found in files.items() if not found):
        stamp |= {"checksum": _checksum(dataset), "headers": _headers(dataset.name)}
    return stamp


def _properties(dataset: Any) -> str:
    indexes = dataset.indexes
    colors = []
    for band in indexes:
        with suppress(ValueError):  # rasterio's way to say that a band has no colour table
            colors.append((band, sorted(dataset.colormap(band).items())))
    values = [
        dataset.driver,
        dataset.shape,
        dataset.crs.to_wkt() if dataset.crs else None,
        tuple(dataset.transform),
        dataset.dtypes,
        dataset.nodatavals,
        dataset.scales,
        dataset.offsets,
        dataset.units,
        dataset.descriptions,
        [color.name for color in dataset.colorinterp],
        [[flag.name for flag in flags] for flags in dataset.mask_flag_enums],
        colors,
    ]
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _sources(files: list[Path]) -> Iterator[Path]:
    """Files of virtual rasters that are sources of other ones."""
    seen, open_ends = set(files), [file for file in files if _is_virtual(file, len(files))]
    while open_ends:
        with (
            suppress(RasterioError, RasterFileError, OSError),
            without_warnings(NotGeoreferencedWarning),
            open_raster(str(open_ends.pop())) as dataset,
        ):
            found = {file.resolve() for name in dataset.files for file in files_within(name)} - seen
            seen |= found
            open_ends += [file for file in found if _is_virtual(file, len(found))]
            yield from found


def _is_virtual(file: Path, among: int) -> bool:
    if file.suffix.lower() == ".vrt" or among > _MANY:
        return file.suffix.lower() == ".vrt"
    with suppress(OSError), file.open("rb") as content:
        return b"<VRTDataset" in content.read(1024)
    return False


def _side_files(files: Iterable[Path]) -> Iterator[Path]:
    """Files beside rasters that GDAL may read with them, also such as it has not looked for yet."""
    folders: dict[Path, dict[str, str]] = {}
    for file in files:
        if file.parent not in folders:
            with suppress(OSError):
                folders[file.parent] = {found.name.lower(): found.name for found in file.parent.iterdir()}
        there = folders.get(file.parent, {})
        name, stem = file.name.lower(), file.stem.lower()
        world = f"{file.suffix[:2]}{file.suffix[-1:]}w".lower() if len(file.suffix) > 2 else ".w"  # .tif -> .tfw
        wanted = {name + end for end in _SIDE_FILES} | {stem + end for end in (*_SIDE_SUFFIXES, world)}
        yield from (file.parent / there[candidate] for candidate in wanted if candidate in there)


def _content(files: list[Path], missing: list[str]) -> str:
    state = hashlib.sha256()
    state.update(repr(missing).encode())
    plain: list[tuple[Path, int]] = []
    for file in files:
        if file.name.lower().endswith(".aux.xml"):
            # Viewers write statistics into it, which change nothing.
            if (meaning := _meaning(file)) is not None:
                state.update(f"{file} {meaning}".encode())
            continue
        with suppress(OSError):
            stat = file.stat()
            state.update(f"{file} {stat.st_size} {stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
            plain.append((file, stat.st_size))
    whole = sum(size for _, size in plain) <= _WHOLE
    for file, size in plain if len(plain) <= _MANY else ():
        if whole or size <= _SMALL:
            state.update(_piece(file, 0, size))
    if not whole or len(plain) > _MANY:
        for piece in _samples(plain):
            state.update(piece)
    return state.hexdigest()


def _samples(files: list[tuple[Path, int]]) -> Iterator[bytes]:
    """Pieces of files that lie behind one another, evenly from the first byte to the last."""
    ends = list(accumulate(size for _, size in files))
    for number in range(_SAMPLES):
        start = max(ends[-1] - _SAMPLE, 0) * number // (_SAMPLES - 1)
        index = min(bisect_right(ends, start), len(files) - 1)
        file, size = files[index]
        yield _piece(file, start - (ends[index] - size), _SAMPLE)


def _piece(file: Path, start: int, size: int) -> bytes:
    try:
        with file.open("rb") as content:
            content.seek(start)
            return content.read(size)
    except OSError as error:  # What cannot be read is refused where its pixels are.
        return str(error.errno).encode()


def _meaning(file: Path) -> str | None:
    """What a ``.aux.xml`` says besides statistics and histograms; None when that is nothing."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return text.hex()
    for parent in [*root.iter()]:
        for child in [*parent]:
            statistics = child.tag == "MDI" and child.get("key", "").startswith("STATISTICS_")
            if statistics or child.tag == "Histograms":
                parent.remove(child)
    for _ in range(2):  # first lists of nothing, then bands of nothing
        for parent in [*root.iter()]:
            for child in [*parent]:
                if child.tag in ("Metadata", "PAMRasterBand") and not len(child):
                    parent.remove(child)
    if not len(root):
        return None
    return ElementTree.canonicalize(ElementTree.tostring(root, encoding="unicode"), strip_text=True)


def _checksum(dataset: Any) -> str:
    """Digest of the first, the middle and the last block."""
    rows, columns = dataset.block_shapes[0]
    down, across = -(-dataset.height // rows), -(-dataset.width // columns)
    state = hashlib.sha256()
    for row, column in [(0, 0), (down // 2, across // 2), (down - 1, across - 1)]:
        top, left = row * rows, column * columns
        window = Window(left, top, min(columns, dataset.width - left), min(rows, dataset.height - top))
        state.update(dataset.read(window=window).tobytes())
    return state.hexdigest()


def _headers(name: str) -> list[str | None] | None:
    """What a server says that tells one state of a file from another; None where it says nothing."""
    match = re.search(r"https?://.*", name)
    if match is None:
        return None
    try:
        request = urllib.request.Request(match[0], method="HEAD")
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return [answer.headers.get(field) for field in ("ETag", "Last-Modified", "Content-Length")]
    except (OSError, ValueError, urllib.error.URLError):
        return None
