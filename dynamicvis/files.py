"""Files that are whole or absent, and text as any editor saves it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; after the block that file takes the place of ``path``.

    It is brought to the disk first, so that ``path`` is the old file or the whole new one whenever the process or the
    machine stops. When the block raises, ``path`` is as it was and nothing is left beside it. The new file has the
    permissions of any new file.

    Args:
        path: file to write; its folder exists.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    # A short name of its own: the path's own name may be as long as the file system allows.
    draft = path.with_name(f".{uuid.uuid4().hex}{path.suffix[:16]}")
    try:
        yield draft
        sync_file(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: str | Path) -> str:
    """Text of a file in UTF-8, without the byte order mark that Windows' editors write.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    return Path(path).read_text(encoding="utf-8-sig")
