"""What the preparations of detection and instance segmentation sets share: checked objects, splits, the written folder.

Annotation tools round outwards, so a box may reach over the border of its image by up to ``TOLERANCE`` pixels and is
then clipped; one that reaches further is an error, as is one without area.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rasterio.errors import NotGeoreferencedWarning, RasterioError

from dynamicvis.data import text
from dynamicvis.data.orientation import orientation
from dynamicvis.data.preparation.folder import CocoWriter, DataSourceError, checked_name, new_folder, source_errors
from dynamicvis.raster_files import RasterFileError, reading

TOLERANCE = 2.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Instance:
    """An object in an image.

    Attributes:
        box: left, top, right, bottom, pixels, inside the image.
        label: index of its class.
        segmentation: polygons or run-length encoding as COCO defines them, or None.
        area: pixels; the box's where None.
    """

    box: Box
    label: int
    segmentation: Any = None
    area: float | None = None


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file with its objects.

    Attributes:
        path: where it lies.
        name: name, with folders if any, in the prepared folder.
        width, height: pixels.
        instances: its objects.
    """

    path: Path
    name: str
    width: int
    height: int
    instances: tuple[Instance, ...]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file as it is shown, pixels, from its header.

    Raises:
        DataSourceError: the file is missing or no image.
    """
    if not path.is_file():
        raise DataSourceError(f"{path} does not exist; unpack the data set whole, or remove what names this image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with reading(path) as file:
                turned = orientation(file, path) >= 5
                return (file.height, file.width) if turned else (file.width, file.height)
    except RasterFileError as error:
        raise DataSourceError(str(error)) from error
    except RasterioError as error:
        raise DataSourceError(f"{path} cannot be read as an image; unpack or download it again") from error


def checked_box(box: Sequence[float], width: int, height: int, source: str) -> Box:
    """A box (left, top, right, bottom) clipped to its image, pixels.

    Args:
        box: as annotated.
        width, height: of the image.
        source: where it comes from, for the message: file and line or object.

    Raises:
        DataSourceError: it lies outside by more than ``TOLERANCE``, has no area, or is no box of numbers.
    """
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise DataSourceError(f"{source}: the box {_numbers(box)} has no area; correct or remove the object")
    if min(left, top) < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        raise DataSourceError(
            f"{source}: the box {_numbers(box)} lies outside its image of {width} x {height} pixels; correct or remove "
            "the object"
        )
    clipped = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise DataSourceError(f"{source}: the box {_numbers(box)} lies outside its image of {width} x {height} pixels")
    return clipped


def checked_segmentation(segmentation: Any, width: int, height: int, source: str) -> Any:
    """Polygons or run-length encoding, as given.

    Raises:
        DataSourceError: a polygon of less than three points, or a mask of another size than the image.
    """
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [height, width]:
            raise DataSourceError(
                f"{source}: its mask has the size {segmentation.get('size')} (height, width), its image "
                f"{[height, width]}; annotations and images are of different versions"
            )
    elif not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        raise DataSourceError(f"{source}: a polygon needs at least three points; correct or remove the object")
    return segmentation


def read_coco(path: Path, images: Path, classes: Sequence[str]) -> list[AnnotatedImage]:
    """Images and objects of a COCO annotation file, sorted by file name.

    Classes are matched by name; underscores count as blanks.

    Args:
        path: annotation file.
        images: folder of the images.
        classes: class names in the order of their labels.

    Raises:
        DataSourceError: a file is missing or damaged, an object names an unknown class or image, or lies outside.
    """
    content = read_json(path)
    try:
        numbers = {name: index for index, name in enumerate(classes)}
        names = {entry["id"]: str(entry["name"]).replace("_", " ") for entry in content["categories"]}
        objects: dict[int, list[Mapping[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            source = f"{path}: object {entry['id']}"
            name = names.get(entry["category_id"], f"number {entry['category_id']}")
            if name not in numbers:
                raise DataSourceError(
                    f"{source} has the class '{name}', which is none of {', '.join(classes)}; correct its category"
                )
            if entry["image_id"] not in objects:
                raise DataSourceError(f"{source} belongs to image {entry['image_id']}, which the file does not list")
            objects[entry["image_id"]].append(entry)
        return [
            _coco_image(path, images, entry, objects[entry["id"]], names, numbers)
            for entry in sorted(content["images"], key=lambda image: image["file_name"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataSourceError(
            f"{path} is no COCO annotation file ({type(error).__name__}: {error}); download it again"
        ) from error


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataSourceError: it is missing or damaged.
    """
    if not path.is_file():
        raise DataSourceError(f"{path} does not exist; put the annotations there")
    with source_errors():
        return text.read_json(path)


def split_by_seed(
    images: Sequence[AnnotatedImage], fraction: float, seed: int
) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """The rest, and a random part of the images, rounded to whole ones; the same for the same names and seed."""
    ordered = sorted(images, key=lambda image: image.name)
    chosen = set(random.Random(seed).sample(range(len(ordered)), round(fraction * len(ordered))))
    part = [image for index, image in enumerate(ordered) if index in chosen]
    return [image for index, image in enumerate(ordered) if index not in chosen], part


def write_detection(
    out: Path, overwrite: bool, classes: Sequence[str], splits: Mapping[str, Sequence[AnnotatedImage]]
) -> str:
    """Write ``OUT/images`` and ``OUT/annotations/SPLIT.json``; images are linked where possible, copied otherwise.

    Args:
        out: folder to create, complete or not at all.
        overwrite: replace an existing one.
        classes: class names in the order of the labels.
        splits: images by split; an image may be in several.

    Returns:
        One line on what was written.

    Raises:
        DataSourceError: a split without images or objects, or ``out`` exists and ``overwrite`` is not set.
    """
    for name, images in splits.items():
        if not any(image.instances for image in images):
            raise DataSourceError(f"split '{name}' has {len(images)} images and no object; the data set is incomplete")
    with new_folder(out, overwrite) as folder:
        (folder / "annotations").mkdir()
        for name, images in splits.items():
            writer = CocoWriter(classes)
            for image in images:
                _place(image.path, folder / "images" / image.name)
                add_image(writer, image)
            (folder / "annotations" / f"{name}.json").write_text(json.dumps(writer.content))
    return f"{out}: " + ", ".join(
        f"{name} {len(images)} images with {sum(len(image.instances) for image in images)} objects"
        for name, images in splits.items()
    )


def add_image(writer: CocoWriter, image: AnnotatedImage) -> None:
    """Add an image and its objects."""
    image_id = writer.add_image(image.name, image.width, image.height)
    for item in image.instances:
        writer.add_object(image_id, item.box, item.label + 1, item.segmentation, item.area)


def _coco_image(
    path: Path,
    images: Path,
    entry: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    numbers: Mapping[str, int],
) -> AnnotatedImage:
    checked_name(entry["file_name"], path)
    width, height = image_size(images / entry["file_name"])
    if (width, height) != (entry["width"], entry["height"]):
        raise DataSourceError(
            f"{images / entry['file_name']} is {width} x {height} pixels, but {entry['width']} x {entry['height']} in "
            f"{path}; annotations and images are of different versions"
        )
    instances = []
    for item in objects:
        source = f"{path}: object {item['id']} in {entry['file_name']}"
        left, top, box_width, box_height = item["bbox"]
        box = checked_box((left, top, left + box_width, top + box_height), width, height, source)
        segmentation = item.get("segmentation")
        if segmentation is not None:
            segmentation = checked_segmentation(segmentation, width, height, source)
        instances.append(Instance(box, numbers[names[item["category_id"]]], segmentation, item.get("area")))
    return AnnotatedImage(images / entry["file_name"], entry["file_name"], width, height, tuple(instances))


def _place(source: Path, target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
