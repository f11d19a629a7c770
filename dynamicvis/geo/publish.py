"""All of a set of files, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def move_all(staging: Path, out_dir: Path, names: Sequence[str]) -> None:
    """Move files from one folder to another of the same disk; if one cannot be moved, all are as they were before."""
    moved: list[str] = []
    before = staging / "before"
    before.mkdir()
    try:
        for name in names:
            if (out_dir / name).exists():
                (out_dir / name).replace(before / name)
            moved.append(name)
            (staging / name).replace(out_dir / name)
    except BaseException:
        for name in moved:
            (out_dir / name).unlink(missing_ok=True)
        for path in before.iterdir():
            path.replace(out_dir / path.name)
        raise
