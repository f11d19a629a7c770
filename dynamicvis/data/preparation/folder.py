"""What every preparation shares: its error, a folder that appears only when it is complete, and COCO annotations."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from dynamicvis.data.raster import DataError
from dynamicvis.errors import DynamicVisError
from dynamicvis.files import is_left_by_system

# Names the files of a folder that was made here, and so marks it as one that may be replaced.
MADE = ".dynamicvis.json"


class DataSourceError(DynamicVisError):
    """The original files or the target folder cannot be used; the message says what to do."""


@contextmanager
def source_errors() -> Iterator[None]:
    """Turn what is wrong with a file that the readers of this package find into a `DataSourceError`."""
    try:
        yield
    except DataError as error:
        raise DataSourceError(str(error)) from error


def add_target_arguments(parser: ArgumentParser) -> None:
    """Add ``--out`` and ``--overwrite``."""
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that was made by this program")


@contextmanager
def new_folder(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` at the end of the block; after an error nothing is left of it.

    In it, ``.dynamicvis.json`` names its files: only a folder that holds nothing else is ever replaced.

    Args:
        out: folder to create.
        overwrite: replace an existing one, once the new one is complete.

    Raises:
        DataSourceError: ``out`` exists and ``overwrite`` is not set, or it is a link or holds what was not made here.
    """
    out = Path(out)
    if os.path.lexists(out):
        if not overwrite:
            raise DataSourceError(f"{out} exists already; give --overwrite to replace it, or another --out")
        _refuse_others(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name[:40]}-"
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix))
    try:
        partial.chmod(0o755)
        yield partial
        (partial / MADE).write_text(json.dumps({"files": sorted(_files(partial))}), encoding="utf-8")
        if out.exists():
            _refuse_others(out)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=prefix) as before:
                replaced = out.rename(Path(before) / "replaced")
                try:
                    partial.rename(out)
                except BaseException:
                    replaced.rename(out)
                    raise
        else:
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    """All below a folder but for folders."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def _refuse_others(out: Path) -> None:
    """Raise if a folder is none that was made here, or holds something else."""
    if out.is_symlink():
        raise DataSourceError(f"{out} is a link; remove it, or give the folder that it points to as --out")
    try:
        made = set(json.loads((out / MADE).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataSourceError(
            f"{out} was not made by this program (it has no {MADE}); remove it yourself, or give another --out"
        ) from error
    others = sorted(name for name in _files(out) - made - {MADE} if not is_left_by_system(PurePath(name).name))
    if others:
        raise DataSourceError(
            f"{out / others[0]} was not made by this program and would be lost; move it away, or give another --out"
        )


class CocoWriter:
    """Content of one COCO annotation file.

    Args:
        classes: class names; category ids count from 1 in their order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.content: dict[str, list[dict[str, Any]]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": index, "name": name} for index, name in enumerate(classes, start=1)],
        }

    def add_image(self, file_name: str, width: int, height: int) -> int:
        """Add an image, pixels; returns its id."""
        images = self.content["images"]
        images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
        return len(images)

    def add_object(
        self,
        image_id: int,
        box: Sequence[float],
        category_id: int = 1,
        segmentation: Any = None,
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object of an image, or a crowd.

        Args:
            image_id: from `add_image`.
            box: left, top, right, bottom, pixels.
            category_id: from 1.
            segmentation: polygons or run-length encoding as COCO defines them, or None.
            area: pixels; the box's without it.
            crowd: it is a region to be ignored.
        """
        annotations = self.content["annotations"]
        left, top, right, bottom = box
        annotation = {
            "id": len(annotations) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top) if area is None else area,
            "iscrowd": int(crowd),
        }
        if segmentation is not None:
            annotation["segmentation"] = segmentation
        annotations.append(annotation)
