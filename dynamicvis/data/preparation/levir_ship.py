"""LEVIR-Ship (Chen et al. 2022): tiny ships in 512 x 512 optical images of 16 m, as its authors partition it.

SOURCE has the folders ``train``, ``val`` and ``test``, each with ``images/NAME.png`` and ``labels/NAME.txt``. A line of
a label file is ``0 x y width height``: centre and size of a ship in fractions of the image; an image without ships has
an empty file.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path

from dynamicvis.data.preparation.detection import (
    AnnotatedImage,
    Instance,
    checked_box,
    image_size,
    images_with_labels,
    write_detection,
)
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, source_errors
from dynamicvis.data.text import read_lines

HELP = "LEVIR-Ship, tiny ship detection, in the YOLO format of its release"
CLASSES = ("ship",)
SPLITS = ("train", "val", "test")


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder that holds train, val and test")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    splits = {split: read_split(options.source, split) for split in SPLITS}
    return write_detection(options.out, options.overwrite, CLASSES, splits)


def read_split(source: Path, split: str) -> list[AnnotatedImage]:
    """Images and ships of a split.

    Raises:
        DataSourceError: a folder or file is missing, or a line is no ship inside its image.
    """
    folder = source / split / "images"
    if not folder.is_dir():
        raise DataSourceError(
            f"{folder} does not exist; --source must hold {'/, '.join(SPLITS)}/ with images/, labels/"
        )
    images = []
    remedy = "an image without ships needs an empty label file, and a label file its image"
    for path, labels in images_with_labels(folder, ".png", source / split / "labels", ".txt", remedy):
        width, height = image_size(path)
        with source_errors():
            lines = read_lines(labels)
        instances = tuple(
            _parse(line, width, height, f"{labels}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line
        )
        images.append(AnnotatedImage(path, f"{split}/{path.name}", width, height, instances))
    return images


def _parse(line: str, width: int, height: int, source: str) -> Instance:
    try:
        label, x, y, box_width, box_height = map(float, line.split())
    except ValueError:
        label = math.nan
    if label != 0:
        raise DataSourceError(
            f"{source}: '{line}' is not '0 x y width height', with class 0 for a ship; correct the line"
        )
    left, top = (x - box_width / 2) * width, (y - box_height / 2) * height
    return Instance(
        checked_box((left, top, left + box_width * width, top + box_height * height), width, height, source), 0
    )
