"""Images with annotated regions in tar shards of the WebDataset layout.

A folder holds ``*.tar`` and ``meta.json``. A shard holds, for an image ``NAME.jpg``, the members ``NAME.jpg.jpg`` (the
file as it was) and ``NAME.jpg.json``: ``gt_bboxes``, a list of [left, top, right, bottom] in pixels, and
``gt_bboxes_labels``, the class names. Images of other formats have their suffix in the place of ``jpg``. ``meta.json``
holds ``num_samples``, and may hold ``classes``.

Any WebDataset reader can stream such shards. Here they are read by number: a table of where each member lies is made
from the headers when a folder is opened. So every epoch visits every image exactly once, however many processes and
workers share it, in an order that a seed fixes; a stream shared among them does neither.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.data.raster import DataError, decode_raster
from dynamicvis.data.text import read_json
from dynamicvis.files import listing

META = "meta.json"
TOLERANCE = 2.0  # pixels; annotation tools round outwards
_HUGE = 2.0**62  # pixels: far below the largest number of 32 bits


@dataclass(frozen=True)
class Regions:
    """Annotated regions of an image.

    Attributes:
        boxes: (count, 4) float32: left, top, right, bottom, pixels.
        labels: (count,) int64, indices of the classes.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


class RegionShards:
    """The images of a folder of shards, by number.

    Args:
        folder: with ``*.tar`` and ``meta.json``.
        classes: names of the classes in the order of their labels; None takes them from ``meta.json``.

    Raises:
        DataError: the folder lacks shards or the count of its samples, a shard is damaged, or the count is another.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        meta = _read_meta(self.folder)
        if classes is None:
            classes = meta.get("classes")
            if not classes:
                raise DataError(f"{self.folder / META} has no 'classes'; name the classes in the order of their labels")
            if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
                raise DataError(f"{self.folder / META} has 'classes' that are no list of names; correct it")
        if len(set(classes)) < len(classes):
            repeated = next(name for name in classes if list(classes).count(name) > 1)
            raise DataError(f"the classes for {self.folder} name {repeated!r} twice; give each label a name of its own")
        self.classes = tuple(classes)
        self._labels = {name: index for index, name in enumerate(self.classes)}
        self._shards = listing(self.folder, "*.tar")
        if not self._shards:
            raise DataError(f"{self.folder} holds no *.tar; make shards with `dynamicvis prepare` fmow or shards")
        names: list[str] = []
        places: list[tuple[int, ...]] = []
        for number, shard in enumerate(self._shards):
            for name, members in _members(shard).items():
                names.append(name)
                places.append((number, *members))
        if len(places) != meta["num_samples"]:
            raise DataError(
                f"{self.folder} holds {len(places)} images in {len(self._shards)} shards, and {META} says "
                f"{meta['num_samples']}; get the missing shards, or correct the count"
            )
        # Arrays, not lists: a million small objects would be copied into every worker bit by bit.
        self._names = np.array([name.encode("utf-8", "surrogateescape") for name in names])
        self._places = np.array(places, dtype=np.int64).reshape(-1, 5)

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """Path of the shard and, after a slash, name of the image."""
        return f"{self._shards[self._places[index, 0]]}/{self._names[index].decode('utf-8', 'backslashreplace')}"

    def content(self, index: int) -> bytes:
        """The encoded image file."""
        return self._member(index, 1)

    def image(self, index: int) -> NDArray[Any]:
        """The image (height, width, bands), bands in the order of the file.

        Raises:
            DataError: it is damaged.
        """
        return decode_raster(self.content(index), self.name(index))

    def regions(self, index: int) -> Regions:
        """The annotated regions.

        Raises:
            DataError: unreadable annotations, an unknown class, or a box without area or with a negative corner.
        """
        name = self.name(index)
        try:
            content = json.loads(self._member(index, 3))
            corners, classes = content["gt_bboxes"], content["gt_bboxes_labels"]
            if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
                raise TypeError("gt_bboxes_labels are no list of names")
            if not all(type(value) in (int, float) for box in corners for value in box):
                raise TypeError("gt_bboxes are not all numbers")
            boxes = np.array(corners, dtype=np.float64).reshape(len(classes), 4)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{name}: its annotations cannot be read ({type(error).__name__}: {error}); they need gt_bboxes, four "
                "numbers each, and as many gt_bboxes_labels"
            ) from error
        for box, label in zip(corners, classes, strict=True):
            if label not in self._labels:
                raise DataError(
                    f"{name}: the class {label!r} is none of the {len(self.classes)} classes "
                    f"({', '.join(self.classes[:3])}, ...); correct it, or add it to metainfo.classes"
                )
            left, top, right, bottom = box
            if not (max(map(abs, box)) < _HUGE and left < right and top < bottom and min(left, top) >= -TOLERANCE):
                raise DataError(
                    f"{name}: the box {box} (left, top, right, bottom) has no area inside the image; make the shards "
                    "again with the region corrected or removed"
                )
        return Regions(boxes.astype(np.float32), np.array([self._labels[label] for label in classes], dtype=np.int64))

    def _member(self, index: int, column: int) -> bytes:
        shard = self._shards[self._places[index, 0]]
        offset, size = self._places[index, column : column + 2].tolist()
        # Opened anew every time: a file shared with forked workers would share its position.
        with shard.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise DataError(f"{shard} has become shorter since it was opened; get the shard anew")
        return content


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    if not path.is_file():
        raise DataError(
            f'{path} does not exist; it must hold the number of images, {{"num_samples": N}}: without it a missing '
            "shard would go unnoticed"
        )
    try:
        meta = read_json(path)
        if type(meta["num_samples"]) is not int or meta["num_samples"] < 1:
            raise ValueError(f"num_samples is {meta['num_samples']!r}")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f'{path} must hold {{"num_samples": N}}, a whole number above 0 ({error!r})') from error
    return meta


def _members(shard: Path) -> dict[str, tuple[int, int, int, int]]:
    """Offset and size of image and annotations by name of the image, from the headers of a shard.

    Raises:
        DataError: the shard is damaged, or an image or annotations are there twice or lack their counterpart.
    """
    images: dict[str, tuple[int, int]] = {}
    annotations: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                if member.isfile():
                    name, _, suffix = member.name.rpartition(".")
                    members = annotations if suffix == "json" else images
                    if name in members:
                        raise DataError(f"{shard}: {name} is in it twice; make or get the shard anew")
                    members[name] = (member.offset_data, member.size)
                # tarfile keeps every header otherwise.
                file.members = []  # type: ignore[attr-defined]
    except tarfile.TarError as error:
        raise DataError(f"{shard} is damaged or no tar file ({error}); get the shard anew") from error
    lonely = images.keys() ^ annotations.keys()
    if lonely:
        name = min(lonely)
        lacking = "annotations (.json)" if name in images else "image"
        raise DataError(f"{shard}: {name} has no {lacking}; make or get the shard anew")
    return {name: (*images[name], *annotations[name]) for name in images}
