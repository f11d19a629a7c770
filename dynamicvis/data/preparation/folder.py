"""What every preparation shares: its error, a folder that appears only when it is complete, and COCO annotations."""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class DataSourceError(RuntimeError):
    """The original files or the target folder cannot be used; the message says what to do."""


def add_target_arguments(parser: ArgumentParser) -> None:
    """Add ``--out`` and ``--overwrite``."""
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")


@contextmanager
def new_folder(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` at the end of the block; after an error nothing is left of it.

    Args:
        out: folder to create.
        overwrite: replace an existing one, once the new one is complete.

    Raises:
        DataSourceError: ``out`` exists and ``overwrite`` is not set.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise DataSourceError(f"{out} exists already; give --overwrite to replace it, or another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        partial.chmod(0o755)
        yield partial
        if out.exists():
            shutil.rmtree(out)
        os.rename(partial, out)  # noqa: PTH104 - Path.rename with the same meaning
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    ) -> None:
        """Add an object of an image.

        Args:
            image_id: from `add_image`.
            box: left, top, right, bottom, pixels.
            category_id: from 1.
            segmentation: polygons or run-length encoding as COCO defines them, or None.
            area: pixels; the box's without it.
        """
        annotations = self.content["annotations"]
        left, top, right, bottom = box
        annotation = {
            "id": len(annotations) + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top) if area is None else area,
            "iscrowd": 0,
        }
        if segmentation is not None:
            annotation["segmentation"] = segmentation
        annotations.append(annotation)
