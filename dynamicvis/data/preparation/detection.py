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

from dynamicvis.data import coco, text
from dynamicvis.data.orientation import orientation
from dynamicvis.data.preparation.folder import CocoWriter, DataSourceError, new_folder, source_errors
from dynamicvis.files import listing
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
        ignored: regions in which objects are neither to be found nor missed, such as the crowds of COCO.
    """

    path: Path
    name: str
    width: int
    height: int
    instances: tuple[Instance, ...]
    ignored: tuple[Instance, ...] = ()


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


def images_with_labels(
    images: Path, suffix: str, labels: Path, label_suffix: str, remedy: str
) -> list[tuple[Path, Path]]:
    """Image and label file of every name, sorted, whatever the case of their suffixes.

    Args:
        images, labels: folders.
        suffix, label_suffix: of the files, in lower case; a ``classes.txt`` of annotation tools is no label file.
        remedy: what to do where a partner is missing.

    Raises:
        DataSourceError: a file has no partner, or two differ in nothing but the case of their suffix.
    """
    first, second = (_by_stem(folder, kind) for folder, kind in ((images, suffix), (labels, label_suffix)))
    if label_suffix == ".txt" and "classes" not in first:
        second.pop("classes", None)
    for files, others, folder, kind in ((first, second, labels, label_suffix), (second, first, images, suffix)):
        for stem in files:
            if stem not in others:
                raise DataSourceError(f"{folder / f'{stem}{kind}'} does not exist, but {files[stem]} does; {remedy}")
    return [(path, second[stem]) for stem, path in first.items()]


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in listing(folder):
        if path.suffix.lower() == suffix:
            if path.stem in files:
                raise DataSourceError(f"{files[path.stem]} and {path.name} have one name; remove one of them")
            files[path.stem] = path
    return files


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
    """Polygons or run-length encoding, as given but for empty polygons; None for a placeholder.

    Raises:
        DataSourceError: it is neither, a polygon has less than three points, or a mask has another size than its image.
    """
    with source_errors():
        segmentation = coco.segmentation(segmentation, source)
    if isinstance(segmentation, Mapping) and list(segmentation["size"]) != [height, width]:
        raise DataSourceError(
            f"{source}: its mask has the size {segmentation['size']} (height, width), its image {[height, width]}; "
            "annotations and images are of different versions"
        )
    return segmentation


def read_coco(path: Path, images: Path, classes: Sequence[str]) -> list[AnnotatedImage]:
    """Images and objects of a COCO annotation file, see `annotated_images`.

    Raises:
        DataSourceError: the file is missing or damaged; and see there.
    """
    with source_errors():
        content = coco.read_coco_file(path)
    return annotated_images(content, images, classes)


def annotated_images(
    content: coco.CocoFile, folder: Path, classes: Sequence[str] | None = None
) -> list[AnnotatedImage]:
    """Images and objects of COCO annotations, sorted by file name.

    Crowds are regions to be ignored, not objects; one without an outline has that of its box.

    Args:
        content: the annotations.
        folder: of the images.
        classes: class names in the order of their labels, matched by name, underscores counting as blanks; None takes
            those of the file, see `coco_classes`.

    Raises:
        DataSourceError: an image is missing or damaged, an object has an unknown class or lies outside.
    """
    if classes is None:
        labels = {name: label for label, name in enumerate(coco_classes(content))}
        known = {number: labels[name] for number, name in content.categories.items()}
    else:
        labels = {name.replace("_", " "): label for label, name in enumerate(classes)}
        spelled = {number: name.replace("_", " ") for number, name in content.categories.items()}
        known = {number: labels[name] for number, name in spelled.items() if name in labels}
    objects: dict[coco.Id, list[coco.CocoObject]] = {number: [] for number in content.images}
    for item in content.objects:
        if item.category_id not in known:
            name = content.categories.get(item.category_id, f"number {item.category_id}").replace("_", " ")
            raise DataSourceError(
                f"{item.source} has the class '{name}', which is none of {', '.join(labels)}; correct its category"
            )
        objects[item.image_id].append(item)
    ordered = sorted(content.images.values(), key=lambda image: image.file_name)
    return [_coco_image(content.path, folder, image, objects[image.id], known) for image in ordered]


def coco_classes(content: coco.CocoFile) -> list[str]:
    """Names of the categories of a file in its order; those of one name are one class."""
    return list(dict.fromkeys(content.categories.values()))


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
        + ignored_regions(images, "to be ignored")
        for name, images in splits.items()
    )


def ignored_regions(images: Sequence[AnnotatedImage], fate: str) -> str:
    """What becomes of the regions to be ignored of some images, for the user; nothing if there are none."""
    count = sum(len(image.ignored) for image in images)
    return f" and {count} crowd regions {fate}" if count else ""


def add_image(writer: CocoWriter, image: AnnotatedImage) -> None:
    """Add an image, its objects, and its regions to be ignored."""
    image_id = writer.add_image(image.name, image.width, image.height)
    for crowd, items in ((False, image.instances), (True, image.ignored)):
        for item in items:
            writer.add_object(image_id, item.box, item.label + 1, item.segmentation, item.area, crowd)


def _coco_image(
    path: str, folder: Path, image: coco.CocoImage, objects: Sequence[coco.CocoObject], labels: Mapping[coco.Id, int]
) -> AnnotatedImage:
    file = folder / image.file_name
    width, height = image_size(file)
    annotated = (image.width or width, image.height or height)
    if (width, height) != annotated:
        raise DataSourceError(
            f"{file} is {width} x {height} pixels, but {annotated[0]} x {annotated[1]} in {path}; annotations and "
            "images are of different versions"
        )
    instances: dict[bool, list[Instance]] = {False: [], True: []}
    for item in objects:
        left, top, box_width, box_height = item.box
        box = checked_box((left, top, left + box_width, top + box_height), width, height, item.source)
        with source_errors():
            coco.check_outline(item)
        outline = checked_segmentation(item.segmentation, width, height, item.source)
        if item.ignored and outline is None:
            outline = [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]]
        instances[item.ignored].append(Instance(box, labels[item.category_id], outline, item.area))
    return AnnotatedImage(file, image.file_name, width, height, tuple(instances[False]), tuple(instances[True]))


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
