"""Rasters made by code, and models of every task whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from dynamicvis.geo.runs.identity import identify
from dynamicvis.geo.stitching.outlines import label_regions
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileObjects, TileOutputs

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


def _digest(function: Callable[..., Any]) -> str:
    return " ".join(identify(function).parts.values())


class FakeModel:
    """A model of any task that is a function; remembers the shapes that it was called with.

    Attributes:
        card: of the model.
        digest: tells two functions apart, as the digest of its weights does for a model.
        calls: number of tiles of each call.
    """

    def __init__(self, card: ModelCard, answer: Callable[[NDArray[np.float32]], TileOutputs]) -> None:
        self.card, self._answer = card, answer
        self.digest = _digest(answer)
        self.calls: list[int] = []

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """What the function answers."""
        self.calls.append(len(images))
        return self._answer(images)


Detector = Callable[[NDArray[np.float32]], list[tuple[Any, Any, Any]]]


def detection_model(detector: Detector = find_blobs, **changes: Any) -> FakeModel:
    """A model that gives boxes, scores and labels of a detector."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        return TileOutputs(objects=[TileObjects(*map(np.asarray, found)) for found in detector(images)])

    model = FakeModel(make_card(**changes), answer)
    model.digest = _digest(detector)
    return model


def mask_model(**changes: Any) -> FakeModel:
    """A model that gives connected bright pixels of one class as masks; see `blob_scene`."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        objects = []
        for image in images:
            classes = np.where(image[0] > 200, 0, np.where(image[1] > 200, 1, -1)).astype(np.int32)
            numbers, count = label_regions(np.pad(classes, 1, constant_values=-1))
            masks = numbers == np.arange(count)[:, None, None]
            scores = np.array([image[2][mask][0] / 255 for mask in masks], np.float64)
            labels = np.array([classes[mask][0] for mask in masks], np.int64)
            objects.append(TileObjects(np.zeros((count, 4)), scores, labels, masks))
        return TileOutputs(objects=objects)

    return FakeModel(make_card(task="instance_segmentation", **changes), answer)


THREE_CLASSES = {"classes": ("water", "field", "wood"), "colors": ("#0000ff", "#ffd400", "#00a020")}


def class_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """The class of `segmentation_model` and `classification_model` for a value of the first band."""
    return np.digitize(values, (85, 170))


def segmentation_model(**changes: Any) -> FakeModel:
    """A model that is 60 to 98 percent sure of `class_of` a pixel's red, more the greener it is; also looks."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        sure = 0.6 + images[:, 1] / 255 * 0.38
        classes = class_of(images[:, 0])
        scores = np.where(classes[:, None] == np.arange(3)[:, None, None], sure[:, None], (1 - sure[:, None]) / 2)
        return TileOutputs(maps={"scores": scores.astype(np.float32)})

    return FakeModel(make_card(task="segmentation", **(THREE_CLASSES | changes)), answer)


def change_model(**changes: Any) -> FakeModel:
    """A model that finds change where red differs by more than 50."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        changed = (np.abs(images[:, 3] - images[:, 0]) > 50).astype(np.float32) * 0.8 + 0.1
        return TileOutputs(maps={"scores": np.stack([1 - changed, changed], axis=1)})

    names = {"classes": ("same", "changed"), "colors": ("#000000", "#ff0000"), "background": 0}
    return FakeModel(make_card(task="change", **(names | changes)), answer)


def classification_model(**changes: Any) -> FakeModel:
    """A model that is 90 percent sure of `class_of` the mean red of a cell."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        classes = class_of(images[:, 0].mean(axis=(1, 2)))
        return TileOutputs(vectors=np.where(classes[:, None] == np.arange(3), 0.9, 0.05).astype(np.float32))

    return FakeModel(make_card(task="classification", **(THREE_CLASSES | changes)), answer)


def embedding_model(**changes: Any) -> FakeModel:
    """A model whose vectors are the means of the bands and the deviation of the first."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        means = images.mean(axis=(2, 3))
        return TileOutputs(embedding=np.concatenate([means, images[:, :1].std(axis=(2, 3))], axis=1))

    return FakeModel(make_card(task="embedding", classes=(), colors=(), **changes), answer)


def that_looks(model: FakeModel) -> FakeModel:
    """The model, which also says where it looked: four stages, in the n-th at pixels above n times 50 in red."""

    def answer(images: NDArray[np.float32]) -> TileOutputs:
        outputs = model(images)
        looked = images[:, :1] > 50 * np.arange(1, 5)[:, None, None]
        return TileOutputs({**outputs.maps, "selection": looked.astype(np.float32)}, outputs.objects, outputs.vectors)

    return FakeModel(model.card, answer)
