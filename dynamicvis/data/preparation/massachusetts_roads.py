"""Massachusetts Roads in tiles, for training that does not read 1500 x 1500 pixels for every crop."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np

from dynamicvis.data.matching import match_by_name
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder
from dynamicvis.data.raster import DataError, read_raster, write_raster
from dynamicvis.tiling import windows

HELP = "Massachusetts Roads, the training images in overlapping tiles"
_EMPTY = 255  # NoData is white


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `prepare_massachusetts_roads`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with train/, valid/ and test/ as published")
    parser.add_argument("--tile", type=int, default=512, help="edge of a tile, pixels (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=384, help="distance of tiles, pixels (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    counts = prepare_massachusetts_roads(options.source, options.out, options.tile, options.stride, options.overwrite)
    return f"{options.out}: images by split " + ", ".join(f"{split} {count}" for split, count in counts.items())


def prepare_massachusetts_roads(
    source: str | Path, out: str | Path, tile: int = 512, stride: int = 384, overwrite: bool = False
) -> dict[str, int]:
    """Write ``OUT/{train,valid,test}/{sat,map}`` in the layout of the original.

    Training images become tiles ``NAME_ROW_COLUMN.tif`` that cover each image, white ones (NoData) left out;
    validation and test images are copied whole, so that every pixel counts once.

    Args:
        source: the data set as published.
        out: folder to create.
        tile: edge of a tile, pixels.
        stride: distance of tiles, pixels; ``tile - stride`` is their overlap.
        overwrite: replace an existing folder.

    Returns:
        Number of images by split.

    Raises:
        DataSourceError: the source lacks a file, a mask has another size than its image, the stride leaves pixels out,
            or ``out`` exists and ``overwrite`` is not set.
    """
    source = Path(source)
    try:
        with new_folder(out, overwrite) as partial:
            splits = {
                split: match_by_name(source / split / "sat", source / split / "map")
                for split in ("train", "valid", "test")
            }
            counts = {}
            for split, pairs in splits.items():
                folders = partial / split / "sat", partial / split / "map"
                for folder in folders:
                    folder.mkdir(parents=True)
                if split == "train":
                    counts[split] = sum(_cut(*pair, *folders, tile, stride) for pair in pairs)
                    continue
                for pair in pairs:
                    for path, folder in zip(pair, folders, strict=True):
                        shutil.copy(path, folder)
                counts[split] = len(pairs)
            return counts
    except (DataError, ValueError) as error:
        raise DataSourceError(str(error)) from error


def _cut(image_path: Path, mask_path: Path, images: Path, masks: Path, tile: int, stride: int) -> int:
    image, mask = read_raster(image_path), read_raster(mask_path)
    if image.shape[:2] != mask.shape[:2]:
        raise DataError(f"{image_path} and {mask_path} are of different sizes: {image.shape[:2]} and {mask.shape[:2]}")
    count = 0
    height, width = image.shape[:2]
    for left, top, right, bottom in windows(height, width, tile, stride):
        window = np.s_[top:bottom, left:right]
        if (image[window] == _EMPTY).all():
            continue
        name = f"{image_path.stem}_{top}_{left}.tif"
        write_raster(images / name, image[window])
        write_raster(masks / name, mask[window])
        count += 1
    return count
