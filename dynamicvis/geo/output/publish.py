"""All of a set of files, or none."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

BEFORE = "before"


def move_all(staging: Path, out_dir: Path, names: Mapping[str, str]) -> None:
    """Move files from one folder to another of the same disk; if one cannot be moved, all are as they were before.

    A link that stands at a name is replaced itself; what it points to is left alone.

    Args:
        staging: folder of the files; those that they replace are kept in ``STAGING/before`` until all are moved.
        out_dir: where they go.
        names: there, each with its name in ``staging``.

    Raises:
        OSError: a file cannot be moved, or a folder has the name of one.
    """
    before = staging / BEFORE
    before.mkdir()
    try:
        for name, made in names.items():
            target = out_dir / name
            if target.is_dir() and not target.is_symlink():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            if os.path.lexists(target):
                target.replace(before / name)
            (staging / made).replace(target)
    except BaseException:
        for name, made in names.items():
            if not (staging / made).exists():
                (out_dir / name).replace(staging / made)
        give_back(before, out_dir)
        raise
    shutil.rmtree(before)


def give_back(before: Path, out_dir: Path) -> None:
    """Move the files of an earlier run back to where they were, unless others stand there."""
    for path in list(before.iterdir()):
        if not os.path.lexists(out_dir / path.name):
            path.replace(out_dir / path.name)
