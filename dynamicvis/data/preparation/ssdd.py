"""SSDD (Zhang et al. 2021): ships in SAR images, with polygons, in either of two releases.

The official release: SOURCE is its folder ``Official-SSDD-OPEN``, or the ``voc_style`` folder of ``PSeg_SSDD`` or
``BBox_RBox_PSeg_SSDD`` below it, with ``JPEGImages_{train,test}/NAME.jpg`` and ``Annotations_{train,test}/NAME.xml``:
PASCAL VOC, the outline of a ship as ``<segm><point>x,y</point>...</segm>``; one marked difficult is a region to be
ignored. Its own division, 928 and 232 images, is kept.

With ``--annotations FILE``: COCO annotations of all images, such as ``SSDD.json`` of the VHR-10_dataset_coco
repository, and SOURCE is the folder of the images. A random fifth of them becomes the test split.

A random tenth of the training images becomes the validation split; ``trainval.json`` holds both.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dynamicvis.data.preparation.detection import (
    AnnotatedImage,
    Instance,
    checked_box,
    checked_segmentation,
    image_size,
    images_with_labels,
    read_coco,
    split_by_seed,
    write_detection,
)
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, source_errors
from dynamicvis.data.text import read_voc

HELP = "SSDD, instance segmentation of ships in SAR images"
CLASSES = ("ship",)
TEST_FRACTION = 0.2
VAL_FRACTION = 0.1
_FOLDERS = ("", "voc_style", "PSeg_SSDD/voc_style", "BBox_RBox_PSeg_SSDD/voc_style")


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="the official release, or the folder of the images")
    parser.add_argument("--annotations", type=Path, help="COCO annotations of all images, divided here at random")
    parser.add_argument("--seed", type=int, default=0, help="of the random divisions (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    if options.annotations is None:
        folder = _find_release(options.source)
        training, test = read_release(folder, "train"), read_release(folder, "test")
    else:
        images = read_coco(options.annotations, options.source, CLASSES)
        training, test = split_by_seed(images, TEST_FRACTION, options.seed)
    train, val = split_by_seed(training, VAL_FRACTION, options.seed)
    splits = {"train": train, "val": val, "trainval": training, "test": test}
    return write_detection(options.out, options.overwrite, CLASSES, splits)


def read_release(folder: Path, split: str) -> list[AnnotatedImage]:
    """Images and ships of a split of the official release.

    Args:
        folder: a ``voc_style`` folder.
        split: ``"train"`` or ``"test"``.

    Raises:
        DataSourceError: a file is missing or damaged, or an object is no ship with an outline inside its image.
    """
    return [
        _read_image(path, image)
        for image, path in images_with_labels(
            folder / f"JPEGImages_{split}",
            ".jpg",
            folder / f"Annotations_{split}",
            ".xml",
            "unpack the data set whole, or remove what names this image",
        )
    ]


def _find_release(source: Path) -> Path:
    for name in _FOLDERS:
        if (source / name / "Annotations_train").is_dir():
            return source / name
    raise DataSourceError(
        f"{source} holds no Annotations_train, neither itself nor in PSeg_SSDD/voc_style; --source must be the "
        "official release, or give the COCO annotations of the images with --annotations"
    )


def _read_image(path: Path, image: Path) -> AnnotatedImage:
    with source_errors():
        root = read_voc(path)
    width, height = image_size(image)
    annotated = tuple(root.findtext(f"size/{name}", "0").strip() for name in ("width", "height"))
    if annotated not in (("0", "0"), (str(width), str(height))):
        raise DataSourceError(
            f"{image} is {width} x {height} pixels, but {' x '.join(annotated)} in {path}; annotations and images are "
            "of different versions"
        )
    instances: dict[bool, list[Instance]] = {False: [], True: []}
    for number, item in enumerate(root.iter("object"), start=1):
        source = f"{path}: object {number}"
        name = item.findtext("name", "").strip()
        if name not in CLASSES:
            raise DataSourceError(f"{source} has the class '{name}', which is none of {', '.join(CLASSES)}; correct it")
        try:
            points = [tuple(map(float, (point.text or "").split(","))) for point in item.iterfind("segm/point")]
            outline = [value for x, y in points for value in (x, y)]
            corners = [float(item.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError as error:
            raise DataSourceError(
                f"{source} has a box or an outline that is not numbers ({error}); correct it"
            ) from error
        if not points:
            raise DataSourceError(
                f"{source} has no outline (segm); take PSeg_SSDD or BBox_RBox_PSeg_SSDD of the official release"
            )
        box = checked_box(corners, width, height, source)
        polygons = checked_segmentation([outline], width, height, source)
        difficult = item.findtext("difficult", "0").strip() == "1"
        instances[difficult].append(Instance(box, 0, polygons, _polygon_area(points)))
    return AnnotatedImage(image, image.name, width, height, tuple(instances[False]), tuple(instances[True]))


def _polygon_area(points: Sequence[tuple[float, ...]]) -> float:
    closed = [*points, points[0]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(closed))) / 2
