"""Mosaics of a scene classification set: every tile a region, so that its labels serve for pretraining on regions.

SOURCE has a folder of images a class, as UC Merced (``Images``), AID and EuroSAT have. Scenes are divided by a seed,
per class, into training, validation and test; a mosaic is a grid of tiles of one split, drawn at random and shrunk to
the size of a tile. Every scene of the training split is in ``--repeats`` mosaics, each time among others; of the
others in one. A grid that the last scenes do not fill keeps its mean colour, without a region.
"""

from __future__ import annotations

import random
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from dynamicvis.data.preparation.detection import AnnotatedImage, Instance
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder, source_errors
from dynamicvis.data.preparation.shards import add_shard_arguments, write_shards
from dynamicvis.data.raster import read_raster
from dynamicvis.files import listing

HELP = "mosaics of a scene classification set, as shards for pretraining"
FRACTIONS = {"val": 0.15, "test": 0.15}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_LARGEST = 16384  # pixels a side of a mosaic
_MEAN = (124, 116, 104)


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with a folder of images a class")
    parser.add_argument("--grid", type=int, default=4, help="tiles a side of a mosaic (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=64, help="edge of a tile, pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=4, help="mosaics with a training scene (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of splits and mosaics (default: %(default)s)")
    add_shard_arguments(parser)


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    if min(options.grid, options.tile, options.repeats) < 1:
        raise DataSourceError("--grid, --tile and --repeats must be at least 1")
    if options.grid * options.tile > _LARGEST:
        raise DataSourceError(
            f"a mosaic of {options.grid} tiles of {options.tile} pixels a side is larger than {_LARGEST} pixels; lower "
            "--grid or --tile"
        )
    if not options.source.is_dir():
        raise DataSourceError(f"{options.source} is no folder; --source is the folder that holds one folder a class")
    classes = [folder.name for folder in listing(options.source) if folder.is_dir()]
    if len(classes) < 2:
        raise DataSourceError(f"{options.source} has {len(classes)} folders; it needs one a class, with its images")
    generator = random.Random(options.seed)
    splits: dict[str, list[tuple[Path, int]]] = {"train": [], **{name: [] for name in FRACTIONS}}
    for label, name in enumerate(classes):
        scenes = [path for path in listing(options.source / name) if path.suffix.lower() in _SUFFIXES]
        if not scenes:
            raise DataSourceError(
                f"{options.source / name} holds no image ({', '.join(_SUFFIXES)}); a folder is a class: remove it, or "
                "put its images there"
            )
        generator.shuffle(scenes)
        for split, fraction in FRACTIONS.items():
            count = round(fraction * len(scenes))
            splits[split] += [(scene, label) for scene in scenes[:count]]
            scenes = scenes[count:]
        splits["train"] += [(scene, label) for scene in scenes]
    summary = []
    with new_folder(options.out, options.overwrite) as folder:
        for split, scenes_of_split in splits.items():
            (folder / split).mkdir()
            repeats = options.repeats if split == "train" else 1
            drawn = [scene for _ in range(repeats) for scene in generator.sample(scenes_of_split, len(scenes_of_split))]
            with tempfile.TemporaryDirectory(dir=folder) as images:
                mosaics = list(_mosaics(drawn, options.grid, options.tile, Path(images)))
                summary.append(f"{split} {write_shards(folder / split, mosaics, classes, options.samples)}")
    return f"{options.out}: " + ", ".join(summary)


def _mosaics(scenes: Sequence[tuple[Path, int]], grid: int, tile: int, folder: Path) -> Iterator[AnnotatedImage]:
    for begin in range(0, len(scenes), grid * grid):
        canvas = np.full((grid * tile, grid * tile, 3), _MEAN, np.uint8)
        instances = []
        for place, (path, label) in enumerate(scenes[begin : begin + grid * grid]):
            top, left = (tile * step for step in divmod(place, grid))
            canvas[top : top + tile, left : left + tile] = _read_tile(path, tile)
            instances.append(Instance((left, top, left + tile, top + tile), label))
        path = folder / f"{begin // (grid * grid):06d}.png"
        if not cv2.imwrite(str(path), canvas[..., ::-1]):
            raise DataSourceError(f"{path} cannot be written; check the free space and permissions")
        yield AnnotatedImage(path, path.name, grid * tile, grid * tile, tuple(instances))


def _read_tile(path: Path, tile: int) -> np.ndarray:
    with source_errors():
        image = read_raster(path)
    if image.dtype != np.uint8 or image.shape[2] != 3:
        raise DataSourceError(f"{path} has {image.shape[2]} bands of {image.dtype}; mosaics need RGB of 8 bits")
    return cv2.resize(image, (tile, tile), interpolation=cv2.INTER_AREA)
