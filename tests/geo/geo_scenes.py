"""Rasters made by code, and detectors whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from dynamicvis.model_card import ModelCard

UTM = {"crs": "EPSG:32617", "transform": rasterio.Affine(0.1, 0, 404211.9, 0, -0.1, 3285142.9)}


def make_card(**changes: Any) -> ModelCard:
    """A card for bytes in three bands and two classes."""
    values: dict[str, Any] = {
        "name": "blobs",
        "task": "detection",
        "description": "Finds bright rectangles.",
        "config": {"type": "FCOS"},
        "bands": ("red", "green", "blue"),
        "mean": (100.0, 110.0, 120.0),
        "std": (50.0, 50.0, 50.0),
        "value_range": (0.0, 255.0),
        "classes": ("tree", "shrub"),
        "colors": ("#ffd400", "#00a0ff"),
        "gsd": 0.1,
        "tile": 64,
        "overlap": 32,
        "score_threshold": 0.3,
        "training_data": "made by code",
        "license": "CC0-1.0",
        "metrics": {"AP50": 0.5},
    }
    return ModelCard(**(values | changes))


def write_raster(path: Path, bands: NDArray[Any], mask: NDArray[np.bool_] | None = None, **profile: Any) -> Path:
    """Write (bands, height, width) as GeoTIFF in UTM unless ``profile`` says otherwise."""
    count, height, width = bands.shape
    settings = {"driver": "GTiff", "dtype": bands.dtype, "count": count, "height": height, "width": width} | UTM
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **(settings | profile)) as sink,
    ):
        sink.write(bands)
        if mask is not None:
            sink.write_mask(mask)
    return path


def blob_scene(height: int, width: int, seed: int, largest: int = 14) -> tuple[NDArray[np.uint8], set[tuple[int, ...]]]:
    """A dark image with bright rectangles that do not touch, and the set of (left, top, right, bottom, label).

    Trees are bright in red, shrubs in green; the blue value is the score of the object in 255ths.
    """
    generator = np.random.default_rng(seed)
    image = np.full((3, height, width), 20, np.uint8)
    truth = set()
    for _ in range(height * width // 150):
        w, h = generator.integers(3, largest + 1, 2)
        left, top = generator.integers(0, max(width - w, 1)), generator.integers(0, max(height - h, 1))
        around = image[:, max(top - 2, 0) : top + h + 2, max(left - 2, 0) : left + w + 2]
        if around.max() > 20 or left + w > width or top + h > height:
            continue
        label = int(generator.integers(2))
        image[label, top : top + h, left : left + w] = 250
        image[2, top : top + h, left : left + w] = generator.integers(100, 255)
        truth.add((int(left), int(top), int(left + w), int(top + h), label))
    return image, truth


def find_blobs(values: NDArray[np.float32]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """The detector for `blob_scene`: bounding boxes of connected bright pixels, by flood fill."""
    answers = []
    for image in values:
        label_of = np.where(image[0] > 200, 0, np.where(image[1] > 200, 1, -1))
        open_pixels = {(int(y), int(x)) for y, x in np.argwhere(label_of >= 0)}
        boxes, scores, labels = [], [], []
        while open_pixels:
            start = open_pixels.pop()
            blob, front = [start], [start]
            while front:
                y, x = front.pop()
                for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                    if neighbour in open_pixels:
                        open_pixels.remove(neighbour)
                        blob.append(neighbour)
                        front.append(neighbour)
            rows, columns = zip(*blob, strict=True)
            boxes.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
            scores.append(image[2][start] / 255)
            labels.append(label_of[start])
        answers.append((np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(labels, int)))
    return answers


def find_nothing(values: NDArray[np.float32]) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """A detector that never finds anything."""
    return [(np.empty((0, 4)), np.empty(0), np.empty(0, int)) for _ in values]
