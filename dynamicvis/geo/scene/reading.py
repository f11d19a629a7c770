"""GDAL as a reader: its settings, its handles for many threads, and its errors in one sentence."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.env import getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.scene.tiff_blocks import problem_of_tiff
from dynamicvis.raster_files import RasterFileError, open_raster, opening_options

DEFAULT_CACHE = 64 << 20  # bytes of decoded blocks that GDAL keeps; a scene of 8192 x 8192 bytes fills it

_REMOTE = re.compile(
    r"(/vsi\w+/\{?)*/vsi(curl|s3|gs|az|adls|oss|swift)(_streaming)?[/?]|([a-z]+\+)*(https?|s3|gs|az|oss|ftp)://", re.I
)
_EXTENSIONS = (".tif", ".tiff", ".TIF", ".TIFF", ".vrt", ".jp2", ".JP2", ".img", ".ntf", ".png", ".jpg", ".zip", ".gz")
# GDAL's fast path for whole PNGs reports success on a file that is cut off, and leaves memory as it was.
_LOCAL_OPTIONS = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
_REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no listing of the bucket, no search for side-car files
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",  # header and offsets of most files in the first request
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds, doubled each time
    "GDAL_HTTP_CONNECTTIMEOUT": "30",  # seconds
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",  # bytes per second; slower than this for the next time is a dead connection
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # seconds
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": str(16 << 20),  # bytes for each handle
}

# Python's warning filters belong to the process: only one thread may change them at a time.
_filters = threading.RLock()


def is_remote(path: str) -> bool:
    """Whether GDAL reads a path through the network."""
    return _REMOTE.match(path) is not None


def not_an_address(path: str) -> str:
    """The path, or the whole path of a file of this machine that is called like an address, such as ``s3:a.tif``."""
    return str(Path(path).absolute()) if ":" in path and not is_remote(path) and os.path.lexists(path) else path


def files_within(name: str) -> Iterator[Path]:
    """The files of this machine that one of GDAL's names stands for: itself, or the archive that it is a part of."""
    parts = [name]
    if name.startswith("/vsi"):
        parts = [name[start.end() :].replace("}", "") for start in re.finditer(r"/vsi\w+/|[,{]", name)]
    for part in parts:
        yield from (path for path in (Path(part), *Path(part).parents) if path.is_file())


def gdal_options(path: str) -> dict[str, Any]:
    """Settings of GDAL for reading one path; those of the environment and of an open `rasterio.Env` go before ours, but
    for those that keep a local file from the network, see `dynamicvis.raster_files`.

    For a remote path they are those that GDAL's documentation recommends for cloud-optimised files: no directory
    listing, hence no side-car files (``.msk``, ``.tfw``, ``.ovr``), merged ranges, a cache, retries and time-outs.
    """
    options = dict(_LOCAL_OPTIONS)
    if is_remote(path):
        options |= _REMOTE_OPTIONS
        if Path(path).suffix in _EXTENSIONS:
            options["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"] = ",".join(_EXTENSIONS)
    options = {name: value for name, value in options.items() if name not in os.environ}
    return options | (getenv() if hasenv() else {}) | opening_options(path)


@contextmanager
def gdal_cache(size: int = DEFAULT_CACHE) -> Iterator[None]:
    """Bound GDAL's cache of decoded blocks, which all threads and files of the process share, while the block runs.

    GDAL's own bound is a twentieth of the machine's memory.

    Args:
        size: bytes, at least 1 MiB.
    """
    with rasterio.Env(GDAL_CACHEMAX=max(size, 1 << 20)):
        yield


@contextmanager
def one_sentence(path: str, message: str) -> Iterator[None]:
    """Turn whatever GDAL and rasterio raise about a damaged file into a `GeoError`."""
    try:
        yield
    except GeoError:
        raise
    except (RasterioError, CPLE_BaseError, ValueError, OverflowError, OSError) as error:
        raise GeoError(f"{path} {message}") from error


class Handles:
    """Open datasets of one file, each used by one thread at a time.

    A handle of GDAL must not be used by two threads at once, and opening one costs requests: a thread borrows one,
    and a new one is opened only when all are in use.

    Args:
        path: see `dynamicvis.raster_files`.

    Raises:
        GeoError: no raster.
    """

    def __init__(self, path: str) -> None:
        self.path = not_an_address(path)
        self._options = gdal_options(self.path)
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._closed = False
        with rasterio.Env(**self._options):
            self._idle.append(_open(self.path))

    @contextmanager
    def borrow(self) -> Iterator[Any]:
        """A dataset for this thread alone, in GDAL's settings for it."""
        with rasterio.Env(**self._options):
            with self._lock:
                if self._closed:
                    raise ValueError(f"{self.path} is closed")
                dataset = self._idle.pop() if self._idle else None
            if dataset is None:
                dataset = _open(self.path)
            try:
                yield dataset
            finally:
                with self._lock:
                    if not self._closed:
                        self._idle.append(dataset)
                        dataset = None
                if dataset is not None:
                    dataset.close()

    def close(self) -> None:
        """Close all handles; those in use when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for dataset in idle:
            dataset.close()


@contextmanager
def without_warnings(*categories: type[Warning]) -> Iterator[None]:
    """Keep warnings that say nothing to the user from him; safe among threads that all use this function."""
    with _filters, warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("ignore", category)
        yield


def refuse_damaged(dataset: Any, path: str) -> None:
    """Refuse a local file that is shorter than its own table of blocks says, or claims an impossible size.

    This finds a file that was cut off before hours are spent on its first part, and a damaged header before memory
    is spent on it. Blocks that were never written (a sparse file) are no damage. GDAL reads the missing end of a raw
    ENVI file as zeros, so its size is compared, too.

    Raises:
        GeoError: the file is cut off or its header is damaged.
    """
    if not Path(path).is_file():
        return
    problem = None
    if dataset.driver == "GTiff":
        problem = problem_of_tiff(Path(path))
    elif dataset.driver == "ENVI" and dataset.tags(ns="ENVI").get("file_compression", "0") == "0":
        needed = dataset.width * dataset.height * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        problem = "truncated" if Path(path).stat().st_size < needed else None
    if problem == "truncated":
        raise GeoError(f"{path} is truncated or damaged: its last blocks are missing; fetch it again")
    if problem is not None:
        raise GeoError(
            f"{path} has a damaged header: it claims {dataset.width} x {dataset.height} pixels, which are not in the "
            "file; fetch it again"
        )


def _open(path: str) -> Any:
    if not is_remote(path) and Path(path).is_dir():
        raise GeoError(f"{path} is a folder; name one raster file in it")
    try:
        with without_warnings(NotGeoreferencedWarning):
            return open_raster(path)
    except RasterFileError as error:
        raise GeoError(str(error)) from error
    except UnicodeEncodeError as error:
        raise GeoError(f"{path} has a name that is no UTF-8, which GDAL does not open; rename it") from error
    except (RasterioError, CPLE_BaseError, ValueError, OverflowError, OSError) as error:
        if is_remote(path):
            reason = str(error).replace(path, "").strip(" :'\"") or type(error).__name__
            raise GeoError(
                f"{path} cannot be opened ({reason}); check the address, the network and your credentials"
            ) from error
        if "No such file or directory" in str(error):
            raise GeoError(f"{path} does not exist; check the name of the scene") from error
        raise GeoError(f"{path} is no raster that GDAL can read; give a GeoTIFF or another GDAL raster") from error
