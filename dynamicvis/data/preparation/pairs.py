"""Pairs of images with a map of the change, written in the layout of LEVIR-CD: ``SPLIT/{A,B,label}/NAME``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.data.preparation.folder import DataSourceError
from dynamicvis.data.raster import read_raster, write_raster
from dynamicvis.tiling import windows

CHANGED = 255
UNKNOWN = 128


class PairWriter:
    """Writes pairs below a folder, whole or in tiles.

    Args:
        folder: to write into.
        tile: size of tiles, pixels.
        stride: distance between tiles, pixels.

    Attributes:
        counts: pairs written, by split.
    """

    def __init__(self, folder: Path, tile: int, stride: int) -> None:
        self.folder = folder
        self.tile = tile
        self.stride = stride
        self.counts: Counter[str] = Counter()

    def write(
        self, split: str, name: str, first: NDArray[Any], second: NDArray[Any], label: NDArray[np.uint8], tiled: bool
    ) -> None:
        """Write a pair of images (H, W, C) and its label (H, W): 0, ``CHANGED``, or ``UNKNOWN`` where nobody looked.

        Tiles in which nothing is known are left out.
        """
        height, width = label.shape
        if not tiled:
            self._write(split, name, first, second, label)
            return
        for left, top, right, bottom in windows(height, width, self.tile, self.stride):
            window = np.s_[top:bottom, left:right]
            if (label[window] != UNKNOWN).any():
                self._write(split, f"{name}_{top}_{left}", first[window], second[window], label[window])

    def write_parts(
        self, name: str, first: NDArray[Any], second: NDArray[Any], label: NDArray[np.uint8], val_share: float
    ) -> None:
        """Write a place of which the lower part, ``val_share`` of its rows, is for validation, whole.

        The upper part is for training, in tiles, none of which reaches into the lower one.
        """
        border = round((1 - val_share) * label.shape[0])
        upper, lower = np.s_[:border], np.s_[border:]
        self.write("train", name, first[upper], second[upper], label[upper], tiled=True)
        if border < label.shape[0]:
            self.write("val", name, first[lower], second[lower], label[lower], tiled=False)

    def _write(self, split: str, name: str, *images: NDArray[Any]) -> None:
        for kind, image in zip(("A", "B", "label"), images, strict=True):
            folder = self.folder / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            write_raster(folder / f"{name}.tif", image)
        self.counts[split] += 1

    def summary(self) -> str:
        """Pairs by split, for the user."""
        return "pairs by split " + ", ".join(f"{split} {count}" for split, count in self.counts.items())


def read_pair(first: Path, second: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both dates of a place, (H, W, C) each.

    Raises:
        DataSourceError: they differ in size or number of bands.
        DataError: one cannot be read.
    """
    images = read_raster(first), read_raster(second)
    if images[0].shape != images[1].shape:
        sizes = [f"{shape[1]} x {shape[0]} pixels in {shape[2]} bands" for shape in (images[0].shape, images[1].shape)]
        raise DataSourceError(f"{first} is {sizes[0]} and {second} is {sizes[1]}; both dates must lie on one grid")
    return images


def match_dates(image: NDArray[Any], reference: NDArray[Any]) -> NDArray[Any]:
    """An image (H, W, C) whose bands are stretched so that their 2nd and 98th percentiles are those of ``reference``.

    Relative radiometric normalisation: what differs between the dates as a whole, such as haze and season, is no
    change of any place. A band of one value is shifted. The result has the type of ``image``, and its range.
    """
    low, high = np.percentile(image, (2, 98), axis=(0, 1))
    low_wanted, high_wanted = np.percentile(reference, (2, 98), axis=(0, 1))
    gain = np.where(high > low, (high_wanted - low_wanted) / np.maximum(high - low, 1e-12), 1.0)
    stretched = (image - low) * gain + low_wanted
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        stretched = stretched.round().clip(limits.min, limits.max)
    return stretched.astype(image.dtype)


def read_binary(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask (H, W) of 0 and 255.

    Raises:
        DataSourceError: it has other values, more than one band, or another size than ``shape``.
        DataError: it cannot be read.
    """
    mask = read_raster(path)
    if mask.shape != (*shape[:2], 1):
        raise DataSourceError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels in {mask.shape[2]} bands, its images "
            f"{shape[1]} x {shape[0]}; a mask has the size of its images and one band"
        )
    values = set(np.unique(mask).tolist())
    if not values <= {0, 255}:
        raise DataSourceError(f"{path} holds the value {min(values - {0, 255})}; expected are 0 and 255")
    return mask[..., 0] == 255
