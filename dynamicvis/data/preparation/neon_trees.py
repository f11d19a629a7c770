"""NEON tree crowns as a COCO data set, from the sample imagery that comes with the DeepForest wheel.

DeepForest (Weinstein et al. 2020) ships a few annotated aerial images of the National Ecological Observatory Network
at 0.1 m per pixel. Only its data files are read; the package is neither imported nor needed otherwise.
"""

from __future__ import annotations

import importlib.util
import json
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dynamicvis.data.preparation.folder import (
    CocoWriter,
    DataSourceError,
    add_target_arguments,
    new_folder,
    source_errors,
)
from dynamicvis.data.text import read_voc

CHIP = 640
OVERLAP = 128
MIN_VISIBLE = 0.4


@dataclass(frozen=True)
class Rectangle:
    """Pixels ``left <= x < right``, ``top <= y < bottom``."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class _Source:
    """An annotated image; its lower right part from the given fractions of width and height on is for validation."""

    image: str
    annotation: str
    split: str
    val_from: tuple[float, float]


TRAINING_SOURCES = (
    _Source(
        "2019_YELL_2_528000_4978000_image_crop2.png",
        "2019_YELL_2_528000_4978000_image_crop2.xml",
        "train_yell",
        (0.65, 0.65),
    ),
    _Source(
        "2019_YELL_2_541000_4977000_image_crop.png",
        "2019_YELL_2_541000_4977000_image_crop.xml",
        "train_yell",
        (0.65, 0.65),
    ),
    _Source("SOAP_061.png", "SOAP_061.xml", "train_soap", (0.7, 0.0)),
)
TEST_SOURCE = _Source("OSBS_029.tif", "OSBS_029.xml", "test", (1.0, 1.0))


HELP = "NEON tree crowns, from the data of the package deepforest"


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `prepare_trees`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, help="folder with the original files; default: the installed package")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    boxes = prepare_trees(options.out, options.source, options.overwrite)
    return f"{options.out}: boxes by split " + ", ".join(f"{split} {count}" for split, count in boxes.items())


def prepare_trees(out: str | Path, source: str | Path | None = None, overwrite: bool = False) -> dict[str, int]:
    """Write the data set: ``OUT/images/*.png`` and ``OUT/annotations/{train_yell,train_soap,val,test}.json``.

    Training images are cut into overlapping chips of at most 640 x 640 pixels that share no pixel with the validation
    parts; boxes are clipped to a chip and dropped where less than 40 % of their area is left. The folder appears only
    when it is complete.

    Args:
        out: folder to create.
        source: folder with the images and annotations; None takes the data of the installed ``deepforest`` package.
        overwrite: replace an existing folder.

    Returns:
        Number of boxes by split.

    Raises:
        DataSourceError: the source lacks a file, or ``out`` exists and ``overwrite`` is not set.
    """
    folder = find_deepforest_data() if source is None else Path(source)
    sources = (*TRAINING_SOURCES, TEST_SOURCE)
    for item in sources:
        for name in (item.image, item.annotation):
            if not (folder / name).is_file():
                raise DataSourceError(f"{folder} lacks {name}; install the data with {_INSTALL}")
    splits: dict[str, CocoWriter] = {}
    with new_folder(out, overwrite) as partial:
        (partial / "images").mkdir()
        (partial / "annotations").mkdir()
        for item in sources:
            _add_source(folder, item, partial / "images", splits)
        for name, writer in splits.items():
            (partial / "annotations" / f"{name}.json").write_text(json.dumps(writer.content))
    return {name: len(writer.content["annotations"]) for name, writer in splits.items()}


_INSTALL = "`pip install --no-deps deepforest==2.1.0`"


def find_deepforest_data() -> Path:
    """Data folder of the installed ``deepforest`` package, which is not imported.

    Raises:
        DataSourceError: the package is not installed.
    """
    spec = importlib.util.find_spec("deepforest")
    if spec is None or spec.origin is None:
        raise DataSourceError(f"the tree images come with the package deepforest, which is not installed; {_INSTALL}")
    return Path(spec.origin).parent / "data"


def read_voc_boxes(path: str | Path) -> NDArray[np.float64]:
    """Boxes (N, 4) xyxy in pixels of a PASCAL VOC file, whatever their class.

    Raises:
        DataSourceError: it is missing or damaged, or a box is not four numbers, or has no area.
    """
    with source_errors():
        root = read_voc(path)
    corners = ("xmin", "ymin", "xmax", "ymax")
    try:
        boxes = [[float(item.findtext(f"bndbox/{corner}", "")) for corner in corners] for item in root.iter("object")]
    except ValueError as error:
        raise DataSourceError(f"{path} has a box that is not four numbers ({error}); correct it") from error
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        if not (np.isfinite([left, top, right, bottom]).all() and left < right and top < bottom):
            raise DataSourceError(
                f"{path}: object {number}: the box ({left:g}, {top:g}, {right:g}, {bottom:g}) has no area; correct or "
                "remove the object"
            )
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def chip_windows(area: Rectangle) -> list[Rectangle]:
    """Windows of at most ``CHIP`` pixels that cover ``area``, evenly spread, overlapping by at least ``OVERLAP``."""
    return [
        Rectangle(left, top, min(left + CHIP, area.right), min(top + CHIP, area.bottom))
        for top in _starts(area.top, area.bottom)
        for left in _starts(area.left, area.right)
    ]


def clip_boxes(boxes: NDArray[np.float64], window: Rectangle) -> NDArray[np.float64]:
    """Boxes relative to a window, clipped to it, without those of which less than ``MIN_VISIBLE`` is inside."""
    low = np.array([window.left, window.top])
    size = np.array([window.right, window.bottom]) - low
    clipped = np.concatenate([(boxes[:, :2] - low).clip(0, size), (boxes[:, 2:] - low).clip(0, size)], axis=1)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1)
    return clipped[visible >= MIN_VISIBLE * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)]


def _starts(low: int, high: int) -> list[int]:
    if high - low <= CHIP:
        return [low]
    count = 1 + -(-(high - low - CHIP) // (CHIP - OVERLAP))
    return [int(start) for start in np.linspace(low, high - CHIP, count).round()]


def _add_source(folder: Path, source: _Source, images: Path, splits: dict[str, CocoWriter]) -> None:
    image = cv2.imread(str(folder / source.image), cv2.IMREAD_COLOR)
    if image is None:
        raise DataSourceError(f"{folder / source.image} cannot be read as an image; install it again with {_INSTALL}")
    boxes = read_voc_boxes(folder / source.annotation)
    stem = Path(source.image).stem
    height, width = image.shape[:2]
    x, y = (round(fraction * size) for fraction, size in zip(source.val_from, (width, height), strict=True))
    whole = Rectangle(0, 0, width, height)
    windows = [(source.split, whole)]
    if x < width or y < height:
        # What is left of an image without its lower right corner: a strip above it and a strip beside it.
        above, beside = Rectangle(0, 0, width, y), Rectangle(0, max(0, y - OVERLAP), x, height)
        areas = [area for area in (above, beside) if area.bottom > area.top]
        windows = [(source.split, window) for area in areas for window in chip_windows(area)]
        windows.append(("val", Rectangle(x, y, width, height)))
    for split, window in windows:
        name = f"{stem}_{window.left}_{window.top}.png"
        if (images / name).exists():  # of a small image both strips begin in its corner
            name = f"{stem}_{window.left}_{window.top}_{window.right}_{window.bottom}.png"
        pixels = image[window.top : window.bottom, window.left : window.right]
        if not cv2.imwrite(str(images / name), pixels):
            raise DataSourceError(f"{images / name} cannot be written; check the free space and permissions")
        writer = splits.setdefault(split, CocoWriter(["tree"]))
        image_id = writer.add_image(name, window.right - window.left, window.bottom - window.top)
        for box in clip_boxes(boxes, window).tolist():
            writer.add_object(image_id, box)
