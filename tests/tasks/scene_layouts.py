"""Small data in the layouts of the data sets for scene classification and retrieval, made by code."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

BANDS = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12"), 60: ("B01", "B09")}
EDGES = {10: 120, 20: 60, 60: 20}


def scene(generator: np.random.Generator, label: int, size: int = 64) -> NDArray[np.uint8]:
    """An image whose colour tells its class."""
    color = 40 + np.array([label * 53 % 170, label * 97 % 170, label * 31 % 170])
    return (color + generator.integers(-20, 20, (size, size, 3))).astype(np.uint8)


def write_scenes(folder: Path, classes: Sequence[str], name: str, per_class: int, size: int = 64) -> None:
    """``FOLDER/CLASS/NAME``, with ``{cls}`` and ``{index}`` in the name."""
    generator = np.random.default_rng(0)
    for label, cls in enumerate(classes):
        (folder / cls).mkdir(parents=True)
        for index in range(per_class):
            Image.fromarray(scene(generator, label, size)).save(folder / cls / name.format(cls=cls, index=index))


def write_tif(path: Path, values: NDArray) -> None:
    """A GeoTIFF of one band."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs="EPSG:32634",
        transform=rasterio.Affine(10, 0, 500000, 0, -10, 6000000),
    ) as file:
        file.write(values, 1)


def write_bigearthnet(root: Path, splits: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """BigEarthNet v1: for every split a patch for each list of labels; reflectance grows with the patch's number."""
    number = 0
    for split, patches in splits.items():
        names = []
        for labels in patches:
            name = f"S2A_MSIL2A_20170613T101031_{number}_{number + 1}"
            folder = root / "BigEarthNet-v1.0" / name
            folder.mkdir(parents=True)
            for resolution, bands in BANDS.items():
                for index, band in enumerate(bands):
                    value = 200 + 100 * number + 10 * index + resolution
                    edge = EDGES[resolution]
                    write_tif(folder / f"{name}_{band}.tif", np.full((edge, edge), value, np.uint16))
            (folder / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": list(labels)}))
            names.append(name)
            number += 1
        (root / f"bigearthnet-{split}.csv").write_text("".join(f"{name},S1_{name}\n" for name in names))


def write_forestnet(root: Path, splits: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """ForestNet: for every split an example for each pair of label and merged label."""
    generator = np.random.default_rng(0)
    merged = sorted({pair[1] for pairs in splits.values() for pair in pairs})
    for split, pairs in splits.items():
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "merged_label", "latitude", "longitude", "year", "example_path"])
            for index, (label, group) in enumerate(pairs):
                example = f"examples/{split}_{index}"
                folder = root / example / "images" / "visible"
                folder.mkdir(parents=True)
                Image.fromarray(scene(generator, merged.index(group), 332)).save(folder / "composite.png")
                writer.writerow([label, group, 1.5, 102.5, 2010, example])
