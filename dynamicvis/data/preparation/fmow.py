"""Functional Map of the World (Christie et al. 2018), the RGB release fMoW-rgb, as tar shards of regions.

SOURCE is its folder, with ``train/CLASS/CLASS_N/CLASS_N_K_rgb.jpg`` and a ``.json`` of the same name beside each image,
which holds ``bounding_boxes``, a list of ``{"category": CLASS, "box": [left, top, width, height]}`` in pixels;
``val`` likewise. Pan-sharpened and multispectral RGB (``_rgb``, ``_msrgb``) are both taken. The names of the test part
are hidden; with its ground truth unpacked in the same layout, name it by ``--splits train val test_gt``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynamicvis.data.fmow import FMOW_CLASSES
from dynamicvis.data.preparation.detection import (
    AnnotatedImage,
    Instance,
    checked_box,
    image_size,
    read_json,
)
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder
from dynamicvis.data.preparation.shards import add_shard_arguments, write_shards
from dynamicvis.files import listing

HELP = "fMoW-rgb, functions of places, as shards for pretraining"


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder of fMoW-rgb")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="folders of SOURCE (default: train val)")
    parser.add_argument(
        "--bad-boxes",
        choices=["stop", "drop"],
        default="stop",
        help="what to do about boxes without area or outside their image (default: %(default)s)",
    )
    add_shard_arguments(parser)


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    reader = FmowReader(drop_bad_boxes=options.bad_boxes == "drop")
    summary = []
    with new_folder(options.out, options.overwrite) as folder:
        for split in options.splits:
            if not (options.source / split).is_dir():
                raise DataSourceError(
                    f"{options.source} has no folder '{split}'; give the folder of fMoW-rgb as --source, and its parts "
                    "by --splits"
                )
            (folder / split).mkdir()
            images = reader.read(options.source / split)
            summary.append(f"{split} {write_shards(folder / split, images, FMOW_CLASSES, options.samples)}")
    if reader.dropped:
        summary.append(f"{len(reader.dropped)} bad boxes dropped, such as {reader.dropped[0]}")
    return f"{options.out}: " + ", ".join(summary)


@dataclass
class FmowReader:
    """Reads images and regions of fMoW's folders.

    Attributes:
        drop_bad_boxes: go on after a box without area or outside its image.
        dropped: what was wrong with the boxes dropped.
    """

    drop_bad_boxes: bool = False
    dropped: list[str] = field(default_factory=list)

    def read(self, split: Path) -> Iterator[AnnotatedImage]:
        """Images with their regions, sorted by name.

        Raises:
            DataSourceError: the folder has no image, an image or its annotations are missing or damaged, a region has
                an unknown class, or a bad box and ``drop_bad_boxes`` is not set.
        """
        paths = listing(split, "*/*/*rgb.jpg")
        if not paths:
            raise DataSourceError(f"{split} has no image CLASS/CLASS_N/CLASS_N_K_rgb.jpg; unpack fMoW-rgb there")
        for path in tqdm(paths, desc=split.name, unit="image", disable=None):
            width, height = image_size(path)
            annotation = path.with_suffix(".json")
            try:
                regions = []
                for entry in _boxes(annotation):
                    if not isinstance(entry["box"], list):
                        raise TypeError(f"the box {entry['box']!r} is no list")
                    left, top, across, down = map(float, entry["box"])
                    regions.append((entry["category"], (left, top, left + across, top + down)))
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise DataSourceError(
                    f"{annotation} has no 'bounding_boxes' with 'category' and 'box' of four numbers "
                    f"({type(error).__name__}: {error}); unpack the data set again"
                ) from error
            instances = [self._instance(*region, width, height, str(annotation)) for region in regions]
            name = path.relative_to(split).as_posix()
            yield AnnotatedImage(path, name, width, height, tuple(item for item in instances if item is not None))

    def _instance(
        self, category: str, corners: tuple[float, float, float, float], width: int, height: int, source: str
    ) -> Instance | None:
        if category not in FMOW_CLASSES:
            raise DataSourceError(f"{source}: the category '{category}' is no class of fMoW; correct it")
        try:
            box = checked_box(corners, width, height, source)
        except DataSourceError as error:
            if not self.drop_bad_boxes:
                raise DataSourceError(f"{error}, or drop such boxes by --bad-boxes drop") from error
            self.dropped.append(str(error))
            return None
        return Instance(box, FMOW_CLASSES.index(category))


def _boxes(annotation: Path) -> Any:
    content = read_json(annotation)
    return content["bounding_boxes"]
