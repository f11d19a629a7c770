"""The error of scenes, options and outputs."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from dynamicvis.errors import DynamicVisError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE = 1 << 20  # bytes; a disk with less is full


class GeoError(DynamicVisError):
    """Input or output that cannot be used; the message is one sentence naming the file and the way out."""


def full_disk(error: OSError, folder: Path | None = None) -> GeoError | None:
    """The sentence about a disk that is full, naming the right one; None for any other error.

    Args:
        error: as raised; its own file says which disk it is, where it names one.
        folder: what was written to, where that is known. Else the folders that caches and temporary files go to are
            looked at.
    """
    if error.errno not in _NO_ROOM:
        return None
    if error.filename:
        place = str(Path(os.fsdecode(error.filename)).parent)
    elif folder is not None:
        place = str(folder)
    else:
        place = " and of ".join(map(str, _full_caches())) or "a cache or of temporary files"
    return GeoError(f"the disk of {place} is full; free some space and start again, what is done is kept")


def _full_caches() -> list[Path]:
    places = [os.environ.get(name) for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "TORCH_HOME", "CPL_TMPDIR")]
    found = []
    for place in [*filter(None, places), tempfile.gettempdir(), str(Path("~/.cache").expanduser())]:
        with suppress(OSError):
            if shutil.disk_usage(place).free < _LITTLE:
                found.append(Path(place))
    return list(dict.fromkeys(found))
