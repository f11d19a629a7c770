"""All of a set of output files, or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dynamicvis.geo.errors import GeoError


@contextmanager
def staged_outputs(out_dir: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a staging folder for files ``names``, and move them to ``out_dir`` when the block ends well.

    When it does not, for whatever reason, ``out_dir`` is as it was before: files written are gone, files replaced are
    back, and folders made for it are removed.

    Raises:
        GeoError: a file exists and ``overwrite`` is not given, or ``out_dir`` is not a folder that can be written to.
    """
    for path in (out_dir / name for name in names):
        if path.is_dir():
            raise GeoError(f"{path} is a folder where a file is to be written; choose another --out-dir")
        if path.exists() and not overwrite:
            raise GeoError(f"{path} exists already; add --overwrite to replace it, or choose another --out-dir")
    made = [folder for folder in (out_dir, *out_dir.parents) if not folder.exists()]
    succeeded = False
    try:
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            staging = tempfile.TemporaryDirectory(prefix=".dynamicvis-", dir=out_dir)
        except OSError as error:
            reason = "it is a file" if out_dir.is_file() else error.strerror or error
            raise GeoError(f"cannot write to folder {out_dir} ({reason}); choose another --out-dir") from error
        with staging as folder:
            yield Path(folder)
            _move_all(Path(folder), out_dir, names)
            succeeded = True
    finally:
        if not succeeded:
            for path in made:
                _remove_if_empty(path)


def _move_all(staging: Path, out_dir: Path, names: Sequence[str]) -> None:
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


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
