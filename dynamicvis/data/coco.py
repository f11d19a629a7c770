"""COCO annotations as tools export them, checked and brought to one form.

The rules, for every reader of the package:

- ids are whole numbers or text, and 7, 7.0 and "7" are one id; those of categories may have gaps, those of objects
  carry no meaning and may be missing or repeated;
- ``bbox`` may be missing where there is a ``segmentation``, which then gives it; a ``segmentation`` that is missing,
  null or empty (``[]``, ``[[]]``, ``{}``) is none; an ``area`` that is no positive number is not given;
- run lengths may be lists or compressed text; they must cover the image;
- ``iscrowd``, and ``ignore`` where tools write it, mark a region that is no object, but where no object is to be looked
  for either;
- ``file_name`` is relative to the folder of the images, with slashes or backslashes, stays in that folder, and is
  listed once;
- an outline has something in common with its box, and run lengths have the size of their image; run lengths without a
  pixel are no outline.

What breaks these rules is an error that names the object or image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_json

Id = int | str

_LONGEST_NAME = 255  # bytes, of a file or folder
_LONGEST_EDGE = 2**31  # pixels


@dataclass(frozen=True)
class CocoImage:
    """An image that a file lists.

    Attributes:
        id: of the image.
        file_name: relative to the folder of the images, with slashes.
        width, height: pixels as annotated, None where the file does not say.
        entry: as the file has it.
    """

    id: Id
    file_name: str
    width: int | None
    height: int | None
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class CocoObject:
    """An object, or a region to be ignored.

    Attributes:
        name: such as "object 7", by its id or place in the file.
        source: file, name and image, as errors call it.
        image_id, category_id: as `CocoImage` and the categories of `CocoFile` have them.
        box: left, top, width, height, pixels, finite.
        segmentation: polygons of at least three points, or run lengths that cover the mask, or None.
        area: pixels, above 0, or None.
        ignored: it is a crowd or marked to be ignored, and no object.
        entry: as the file has it.
    """

    name: str
    source: str
    image_id: Id
    category_id: Id
    box: tuple[float, float, float, float]
    segmentation: Any
    area: float | None
    ignored: bool
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """Content of an annotation file.

    Attributes:
        path: of the file.
        categories: name by id, in the order of the file.
        images: by id, in the order of the file.
        objects: in the order of the file; each belongs to one of ``images``, but its category may be unknown.
        entries: everything as the file has it.
    """

    path: str
    categories: dict[Id, str]
    images: dict[Id, CocoImage]
    objects: tuple[CocoObject, ...]
    entries: Mapping[str, Any]


def read_coco_file(path: str | Path) -> CocoFile:
    """Read a COCO annotation file by the rules above.

    Raises:
        DataError: it is missing or damaged, or breaks a rule.
    """
    content = read_json(path)
    for name in ("categories", "images", "annotations"):
        entries = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise DataError(
                f"{path} has no '{name}', a list of entries, so that it is no COCO annotation file; get or make it anew"
            )
    categories: dict[Id, str] = {}
    for entry in content["categories"]:
        number = _id(entry.get("id"), f"{path}: a category")
        if number in categories or entry.get("name") is None:
            wrong = "is listed twice" if number in categories else "has no 'name'"
            raise DataError(f"{path}: category {number} {wrong}; correct it")
        categories[number] = str(entry["name"])
    images: dict[Id, CocoImage] = {}
    by_name: dict[str, Id] = {}
    for entry in content["images"]:
        image = _image(entry, str(path))
        if image.id in images:
            raise DataError(f"{path}: image {image.id} is listed twice; give each image an id of its own")
        if image.file_name in by_name:
            raise DataError(
                f"{path}: {image.file_name} is listed as image {by_name[image.file_name]} and {image.id}; make them one"
            )
        images[image.id] = image
        by_name[image.file_name] = image.id
    for name, ids in (("images", images), ("categories", categories)):
        if len({type(number) for number in ids}) > 1:
            raise DataError(f"{path}: some ids of the {name} are numbers and some are text; use either")
    objects = tuple(_object(entry, place, str(path), images) for place, entry in enumerate(content["annotations"]))
    return CocoFile(str(path), categories, images, objects, content)


def _image(entry: Mapping[str, Any], path: str) -> CocoImage:
    number = _id(entry.get("id"), f"{path}: an image")
    source = f"{path}: image {number}"
    width, height = (_edge(entry.get(name), f"{source} has {name}") for name in ("width", "height"))
    return CocoImage(number, _file_name(entry.get("file_name"), source), width, height, entry)


def _edge(value: Any, source: str) -> int | None:
    if value is None:
        return None
    if not _is_number(value) or value <= 0 or value != int(value):
        raise DataError(f"{source} {value!r}; it must be a whole number of pixels above 0")
    return int(value)


def _file_name(name: Any, source: str) -> str:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{source} has {name!r} where the name of a file is to be; correct it")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or path == PurePosixPath():
        raise DataError(f"{source} names the file {name!r}, which lies outside its folder; correct it")
    if any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in path.parts) or not _is_text(name):
        raise DataError(f"{source} names the file {name[:80]!r}, as no file can be called; correct it")
    return path.as_posix()


def _object(entry: Mapping[str, Any], place: int, path: str, images: Mapping[Id, CocoImage]) -> CocoObject:
    given = entry.get("id")
    called = f"object {place + 1 if given is None else given}"
    source = f"{path}: {called}"
    image_id = _id(entry.get("image_id"), f"{source}: its image")
    if image_id not in images:
        raise DataError(f"{source} belongs to image {image_id}, which is not listed; correct or remove it")
    source = f"{source} in {images[image_id].file_name}"
    outline = segmentation(entry.get("segmentation"), source)
    if isinstance(outline, Mapping):
        image = images[image_id]
        size, annotated = [int(edge) for edge in outline["size"]], [image.height, image.width]
        if None not in annotated and size != annotated:
            raise DataError(
                f"{source}: its mask has the size {size} (height, width), its image {annotated}; annotations and "
                "images are of different versions"
            )
    around = None if outline is None else bounds(outline)
    if isinstance(outline, Mapping) and around == (0.0, 0.0, 0.0, 0.0):
        outline = around = None
    box = entry.get("bbox")
    if box is None or box == []:
        if outline is None:
            raise DataError(f"{source} has neither 'bbox' nor 'segmentation'; correct or remove it")
        box = around
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"{source} has the bbox {box!r}; it must be four finite numbers: left, top, width, height")
    area = entry.get("area")
    return CocoObject(
        called,
        source,
        image_id,
        _id(entry.get("category_id"), f"{source}: its category"),
        (box[0], box[1], box[2], box[3]),
        outline,
        area if _is_number(area) and area > 0 else None,
        any(_flag(entry.get(name), name, source) for name in ("iscrowd", "ignore")),
        entry,
    )


def check_outline(item: CocoObject) -> None:
    """Compare the outline of an object, if it has one, with its box.

    Raises:
        DataError: they are more than a pixel apart.
    """
    if item.segmentation is None:
        return
    around, box = bounds(item.segmentation), item.box
    for axis in (0, 1):
        if around[axis] > box[axis] + box[axis + 2] + 1 or box[axis] > around[axis] + around[axis + 2] + 1:
            raise DataError(
                f"{item.source}: its segmentation lies elsewhere than its bbox {list(box)} (left, top, width, height); "
                "correct it, the coordinates of both being pixels of the image"
            )


def segmentation(value: Any, source: str) -> Any:
    """Polygons or run lengths as COCO defines them, None for a placeholder.

    Args:
        value: as the file has it.
        source: what an error calls the object.

    Raises:
        DataError: it is neither, a polygon has less than three points, or the runs do not cover the mask.
    """
    if not value:
        return None
    if isinstance(value, Mapping):
        run_lengths(value, source)
        return value
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise DataError(f"{source}: its segmentation must be a list of polygons [x, y, x, y, ...], or run lengths")
    polygons = [polygon for polygon in value if polygon]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_number, polygon)):
            raise DataError(
                f"{source}: a polygon needs at least three points, of two finite numbers; correct or remove the object"
            )
    return polygons or None


def run_lengths(encoding: Mapping[str, Any], source: str = "a mask") -> NDArray[np.int64]:
    """Runs of 0 and 1 in turn, column by column, of COCO's encodings of a mask: lists, and compressed text or bytes.

    Raises:
        DataError: it has no such runs, or they do not cover the mask.
    """
    size, counts = encoding.get("size"), encoding.get("counts")
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(_is_number(edge) and 1 <= edge < _LONGEST_EDGE and edge == int(edge) for edge in size)
    ):
        raise DataError(f"{source}: its run lengths have the size {size!r}; it must be [height, width] in pixels")
    if isinstance(counts, str | bytes):
        counts = _decompress(counts, source)
    if not isinstance(counts, list) or not all(_is_number(run) and run >= 0 and run == int(run) for run in counts):
        raise DataError(f"{source}: its run lengths must be whole numbers from 0 on, or compressed text")
    if sum(counts) != size[0] * size[1]:
        raise DataError(
            f"{source}: its run lengths cover {sum(counts)} pixels of a mask of {size[1]} x {size[0]}; correct it"
        )
    return np.array(counts, dtype=np.int64)


def decode_mask(encoding: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Mask (H, W) of run lengths.

    Raises:
        DataError: see `run_lengths`.
    """
    runs = run_lengths(encoding)
    values = np.arange(len(runs)) % 2 == 1
    height, width = map(int, encoding["size"])
    return np.repeat(values, runs).reshape(width, height).T


def bounds(outline: Any) -> tuple[float, float, float, float]:
    """Left, top, width and height of polygons or run lengths, pixels; without area where nothing is set."""
    if isinstance(outline, Mapping):
        height = int(outline["size"][0])
        ends = run_lengths(outline).cumsum()
        first, last = ends[:-1:2], ends[1::2] - 1
        first, last = first[last >= first], last[last >= first]
        if not len(first):
            return 0.0, 0.0, 0.0, 0.0
        # A run that goes on in the next column has pixels in the last row and in the first.
        whole = first // height < last // height
        top, bottom = np.where(whole, 0, first % height).min(), np.where(whole, height - 1, last % height).max()
        left, right = first[0] // height, last[-1] // height
        return float(left), float(top), float(right + 1 - left), float(bottom + 1 - top)
    across, down = ([value for polygon in outline for value in polygon[axis::2]] for axis in (0, 1))
    return min(across), min(down), max(across) - min(across), max(down) - min(down)


def _decompress(text: str | bytes, source: str) -> list[int]:
    """Runs of the compressed encoding.

    A number is written in groups of five bits, the lowest first, as characters from "0" on; a sixth bit says that more
    follow, and the highest bit of the last group is the sign. From the fourth on, a run is given as the difference to
    the last but one.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    number = shift = 0
    for byte in data:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            raise DataError(f"{source}: its run lengths are no compressed text of COCO's encoding; correct it")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise DataError(f"{source}: its run lengths are cut off; correct it")
    return runs


def _id(value: Any, source: str) -> Id:
    if isinstance(value, str) and re.fullmatch(r"0|-?[1-9]\d{0,17}", value):
        return int(value)
    if isinstance(value, str) and value:
        return value
    if _is_number(value) and value == int(value):
        return int(value)
    raise DataError(f"{source} has the id {value!r}; an id is a whole number or text")


def _flag(value: Any, name: str, source: str) -> bool:
    if value in (None, 0, "", "0"):
        return False
    if value in (1, "1"):
        return True
    raise DataError(f"{source} has {name} {value!r}; it must be 0 or 1")


def _is_text(value: str) -> bool:
    """Whether it can be written in UTF-8, unlike halves of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**62
