"""Small data sets of change, in the layouts that they are published in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

OSCD_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def make_levir_cd(root: Path, counts: Mapping[str, int]) -> Path:
    """``SPLIT/{A,B,label}/SPLIT_0.png``: RGB of 64 x 64 pixels, something built in the second."""
    for split, count in counts.items():
        for index in range(count):
            _write_pair(root / split, f"{split}_{index}", index)
    return root


def make_whu_cd(root: Path, counts: Mapping[str, int]) -> Path:
    """``{A,B,label}/SPLIT_0.png`` and ``list/SPLIT.txt``."""
    (root / "list").mkdir(parents=True)
    for split, count in counts.items():
        for index in range(count):
            _write_pair(root, f"{split}_{index}", index)
        (root / "list" / f"{split}.txt").write_text("".join(f"{split}_{index}.png\n" for index in range(count)))
    return root


def make_oscd(root: Path, places: Mapping[str, Sequence[str]], size: tuple[int, int] = (72, 80)) -> Path:
    """The three archives unpacked side by side, with lists of places, 13 bands a date, previews and labels."""
    images = root / "Onera Satellite Change Detection dataset - Images"
    for split, names in places.items():
        labels = root / f"Onera Satellite Change Detection dataset - {split.title()} Labels"
        for seed, name in enumerate(names):
            dates, label = scene(*size, 13, seed)
            for date, image in enumerate(dates, start=1):
                for index, band in enumerate(OSCD_BANDS):
                    path = images / name / f"imgs_{date}_rect" / f"S2A_2016_{name}_{band}.tif"
                    write_image(path, (image[..., index : index + 1] * 30.0).astype(np.uint16))
                write_image(images / name / "pair" / f"img{date}.png", image[..., [3, 2, 1]])
            write_image(labels / name / "cm" / "cm.png", label)
        (images / f"{split}.txt").write_text(",".join(names))
    return root


def make_places(root: Path, names: Sequence[str], bands: int, size: tuple[int, int] = (72, 80)) -> Path:
    """``PLACE/{t1.tif,t2.tif,cm.png,change.png,unchanged.png}``; the last two are sparse."""
    for seed, name in enumerate(names):
        dates, label = scene(*size, bands, seed)
        for date, image in enumerate(dates, start=1):
            write_image(root / name / f"t{date}.tif", image)
        known = np.zeros_like(label)
        known[::2, ::3] = 255
        write_image(root / name / "cm.png", label)
        write_image(root / name / "change.png", label & known)
        write_image(root / name / "unchanged.png", ~label & known)
    return root


def scene(height: int, width: int, bands: int, seed: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Two dates (H, W, C) of noise, a bright square in the second, and the label (H, W, 1) of it, 0 and 255."""
    generator = np.random.default_rng(seed)
    first, second = generator.integers(40, 120, (2, height, width, bands)).astype(np.uint8)
    top, left = generator.integers(0, 20, 2)
    square = np.s_[top : top + height // 2, left : left + width // 2]
    second[square] += 100
    label = np.zeros((height, width, 1), np.uint8)
    label[square] = 255
    return [first, second], label


def write_image(path: Path, image: NDArray[Any]) -> None:
    """Write (H, W, C) as PNG or GeoTIFF, by the suffix, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = image.shape
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", driver=driver, width=width, height=height, count=bands, dtype=image.dtype) as file:
        file.write(image.transpose(2, 0, 1))


def _write_pair(folder: Path, name: str, seed: int) -> None:
    dates, label = scene(64, 64, 3, seed)
    for kind, image in zip(("A", "B", "label"), (*dates, label), strict=True):
        write_image(folder / kind / f"{name}.png", image)
