"""NWPU VHR-10 (Cheng et al. 2014): ten classes of objects in very high resolution optical images.

SOURCE is the folder of the release, with ``positive image set/NNN.jpg`` and ``ground truth/NNN.txt``, and in it
``annotations.json`` with the masks, from the folder ``NWPU VHR-10_dataset_coco`` of the VHR-10_dataset_coco repository
(Su et al. 2020). With ``--boxes`` no masks are needed: the boxes come from the text files, whose lines are
``(x1,y1),(x2,y2),class`` with classes from 1 to 10.

A random fifth of the 650 positive images becomes the test split, a random tenth of the others the validation split;
``trainval.json`` holds those and the training images. The negative images are not used.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from dynamicvis.data.preparation.detection import (
    AnnotatedImage,
    Instance,
    checked_box,
    image_size,
    images_with_labels,
    read_coco,
    split_by_seed,
    write_detection,
)
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, source_errors
from dynamicvis.data.text import read_lines

HELP = "NWPU VHR-10, instance segmentation of ten classes in optical images"
CLASSES = (
    "airplane",
    "ship",
    "storage tank",
    "baseball diamond",
    "tennis court",
    "basketball court",
    "ground track field",
    "harbor",
    "bridge",
    "vehicle",
)
TEST_FRACTION = 0.2
VAL_FRACTION = 0.1
IMAGES = "positive image set"
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_LINE = re.compile(rf"\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*,\s*(\d+)\s*")


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder of the release, with annotations.json in it")
    parser.add_argument("--boxes", action="store_true", help="boxes of the release alone, without masks")
    parser.add_argument("--seed", type=int, default=0, help="of the random divisions (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    if not (options.source / IMAGES).is_dir():
        raise DataSourceError(f"{options.source / IMAGES} does not exist; --source must be the folder of the release")
    images = read_boxes(options.source) if options.boxes else read_masks(options.source)
    training, test = split_by_seed(images, TEST_FRACTION, options.seed)
    train, val = split_by_seed(training, VAL_FRACTION, options.seed)
    splits = {"train": train, "val": val, "trainval": training, "test": test}
    return write_detection(options.out, options.overwrite, CLASSES, splits)


def read_masks(source: Path) -> list[AnnotatedImage]:
    """Images and objects, with masks, from ``annotations.json``.

    Raises:
        DataSourceError: see `read_coco`; or an object has no mask.
    """
    path = source / "annotations.json"
    if not path.is_file():
        raise DataSourceError(
            f"{path} does not exist; put annotations.json of the VHR-10_dataset_coco repository there, or give --boxes"
        )
    images = read_coco(path, source / IMAGES, CLASSES)
    for image in images:
        if any(item.segmentation is None for item in image.instances):
            raise DataSourceError(f"{path}: an object in {image.name} has no segmentation; give --boxes to do without")
    return images


def read_boxes(source: Path) -> list[AnnotatedImage]:
    """Images and objects, without masks, from ``ground truth/NNN.txt``.

    Raises:
        DataSourceError: a file is missing or damaged, or a line is no object of a known class inside its image.
    """
    images = []
    labelled = images_with_labels(source / IMAGES, ".jpg", source / "ground truth", ".txt", "unpack the data set whole")
    for path, labels in labelled:
        width, height = image_size(path)
        with source_errors():
            lines = read_lines(labels)
        instances = tuple(
            _parse(line, width, height, f"{labels}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line
        )
        images.append(AnnotatedImage(path, path.name, width, height, instances))
    return images


def _parse(line: str, width: int, height: int, source: str) -> Instance:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataSourceError(f"{source}: '{line}' is not '(x1,y1),(x2,y2),class'; correct the line")
    label = int(match[5])
    if not 1 <= label <= len(CLASSES):
        raise DataSourceError(f"{source}: class {label} is none of 1 ({CLASSES[0]}) to 10 ({CLASSES[-1]}); correct it")
    box = checked_box([float(match[number]) for number in (1, 2, 3, 4)], width, height, source)
    return Instance(box, label - 1)
