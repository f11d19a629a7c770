"""What ``tools/test.py --out`` leaves: predictions in an open format per task, and a sheet of pictures.

====================  =========================================================================================
task                  files
====================  =========================================================================================
detection, instances  ``predictions.json``, COCO's format of results: boxes xywh in pixels of the original image,
                      masks as run lengths
segmentation, change  ``maps/*.png``, 8 bits, the value of a pixel is its class, with the colours of the classes;
                      ``predictions.json`` says which map belongs to which image
classification        ``predictions.csv``, a line an image: truth, prediction, score of every class
regions               ``predictions.csv``, a line a region: its box in pixels of the original image, truth,
                      prediction, score
retrieval             ``predictions.csv``, the 20 nearest images of the database for every query, by the L1 distance of
                      their embeddings; ``embeddings.npy``, a row an image, and ``embeddings.csv``, which image
====================  =========================================================================================

Which task it is shows in the data samples.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from dynamicvis.data.preparation.folder import new_folder
from dynamicvis.files import safe_name, same_name_key
from dynamicvis.mm.classes import class_color, class_colors, class_names
from dynamicvis.mm.errors import PredictionError
from dynamicvis.mm.pictures import Panel, Sheet, Shown, class_map, instances, labels, show
from dynamicvis.pretraining import RegionClassifier

_SAMPLES = 8  # rows of the sheet
_RETRIEVED = 20
_DISPLAYED = 0.3  # lowest score of an object that is drawn
_IGNORED = 255
_SENTINEL_2 = {"b04": "red", "b03": "green", "b02": "blue"}


@dataclass(frozen=True)
class Classes:
    """What a data set says about its classes.

    Attributes:
        names: class names, possibly none.
        colors: RGB, 0 to 255, one a class.
        category_ids: the number of each class in a COCO file, or none.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    category_ids: tuple[int, ...] = ()

    def name(self, index: int) -> str:
        """Name of a class, its number where it has none."""
        return self.names[index] if index < len(self.names) else str(index)

    def color(self, index: int) -> tuple[int, int, int]:
        """Colour of a class."""
        return self.colors[index] if index < len(self.colors) else class_color(index)

    def category(self, index: int) -> int:
        """Number of a class in the annotation file, the class itself where there is none."""
        return self.category_ids[index] if index < len(self.category_ids) else index


class Writer(Protocol):
    """Predictions of one task."""

    def add(self, sample: Any, image: str) -> None:
        """Take the predictions of one image, called ``image`` in the results."""

    def finish(self) -> None:
        """Write what was taken."""

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        """Truth and prediction of the sample that was added as number ``index``; asked for after all were."""


class BoxWriter:
    """Boxes and masks, as COCO results."""

    def __init__(self, folder: Path, classes: Classes) -> None:
        self._path = folder / "predictions.json"
        self._classes = classes
        self._results: list[dict[str, Any]] = []
        self._images = 0

    def add(self, sample: Any, image: str) -> None:
        predicted = sample.pred_instances
        identity = sample.metainfo.get("img_id", self._images)
        self._images += 1
        boxes, scores, categories = (_numpy(predicted[name]) for name in ("bboxes", "scores", "labels"))
        masks = _masks(predicted)
        for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
            result: dict[str, Any] = {
                "image_id": identity,
                "category_id": self._classes.category(int(categories[index])),
                "bbox": [left, top, right - left, bottom - top],
                "score": float(scores[index]),
            }
            if masks is not None:
                result["segmentation"] = _run_lengths(masks[index])
            self._results.append(result)

    def finish(self) -> None:
        self._path.write_text(json.dumps(self._results) + "\n")

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        predicted = sample.pred_instances
        scores = _numpy(predicted.scores)
        seen = scores >= _DISPLAYED
        categories = _numpy(predicted.labels)[seen].astype(int)
        masks = _masks(predicted)
        captions = [
            f"{self._classes.name(label)} {score:.2f}" for label, score in zip(categories, scores[seen], strict=True)
        ]
        prediction = instances(
            picture,
            _numpy(predicted.bboxes)[seen],
            [self._classes.color(label) for label in categories],
            captions,
            None if masks is None else masks[seen],
        )
        return self._truth(sample, picture), prediction

    def _truth(self, sample: Any, picture: Shown) -> Panel:
        truth = sample.get("gt_instances")
        if truth is None or "labels" not in truth:
            return labels(["no truth in the samples"])
        categories = _numpy(truth.labels).astype(int)
        return instances(
            picture,
            _numpy(truth.bboxes).reshape(-1, 4),
            [self._classes.color(label) for label in categories],
            [self._classes.name(label) for label in categories],
            _masks(truth),
        )


class MapWriter:
    """Class maps, as PNG with a palette."""

    def __init__(self, folder: Path, classes: Classes) -> None:
        self._folder = folder
        self._classes = classes
        self._palette = [value for index in range(256) for value in self._color(index)]
        self._written: dict[str, str] = {}
        self._keys: set[str] = set()
        (folder / "maps").mkdir()

    def add(self, sample: Any, image: str) -> None:
        values = _numpy(sample.pred_sem_seg.data).squeeze(0)
        if values.max() > _IGNORED:
            raise PredictionError(f"class {values.max()} of {image} does not fit an 8-bit map; leave --out away")
        stem, repeat = safe_name(Path(image).stem), 1
        name = f"maps/{stem}.png"
        while same_name_key(name) in self._keys:
            repeat += 1
            name = f"maps/{stem}_{repeat}.png"
        self._keys.add(same_name_key(name))
        picture = Image.fromarray(values.astype(np.uint8), mode="P")
        picture.putpalette(self._palette)
        picture.save(self._folder / name)
        self._written[name] = image

    def finish(self) -> None:
        content = {
            "classes": list(self._classes.names),
            "palette": [list(color) for color in self._classes.colors],
            "maps": [{"image": image, "map": name} for name, image in self._written.items()],
        }
        (self._folder / "predictions.json").write_text(json.dumps(content, indent=1) + "\n")

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        palette = np.array(self._palette, np.uint8).reshape(256, 3)
        truth = sample.get("gt_sem_seg")
        return (
            labels(["no truth in the samples"]) if truth is None else class_map(_numpy(truth.data).squeeze(0), palette),
            class_map(_numpy(sample.pred_sem_seg.data).squeeze(0), palette),
        )

    def _color(self, index: int) -> tuple[int, int, int]:
        return (128, 128, 128) if index == _IGNORED else self._classes.color(index)


class LabelWriter:
    """Labels of whole images, one or several each, as CSV."""

    def __init__(self, folder: Path, classes: Classes) -> None:
        self._path = folder / "predictions.csv"
        self._classes = classes
        self._lines: list[list[Any]] = []

    def add(self, sample: Any, image: str) -> None:
        truth, predicted, scores = self._content(sample)
        self._lines.append([image, ";".join(truth), ";".join(predicted), *scores.tolist()])

    def finish(self) -> None:
        scores = len(self._lines[0]) - 3 if self._lines else len(self._classes.names)
        names = [self._classes.name(index) for index in range(scores)]
        _write_table(self._path, ["image", "truth", "prediction", *names], self._lines)

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        truth, predicted, scores = self._content(sample)
        best = np.argsort(-scores)[:5]
        lines = [f"{self._classes.name(int(index))}  {scores[index]:.3f}" for index in best]
        return labels(truth), labels(lines, wrong=not truth or set(predicted) != set(truth))

    def _content(self, sample: Any) -> tuple[list[str], list[str], NDArray]:
        truth = _numpy(sample.gt_label) if "gt_label" in sample else np.empty(0)
        names = [
            [self._classes.name(int(index)) for index in np.atleast_1d(values)]
            for values in (truth, _numpy(sample.pred_label))
        ]
        return names[0], names[1], _numpy(sample.pred_score)


class RegionWriter:
    """Labels of given regions, as CSV."""

    def __init__(self, folder: Path, classes: Classes) -> None:
        self._path = folder / "predictions.csv"
        self._classes = classes
        self._lines: list[list[Any]] = []

    def add(self, sample: Any, image: str) -> None:
        for box, *names, score in self._regions(sample):
            self._lines.append([image, *box, *names, score])

    def finish(self) -> None:
        head = ["image", "left", "top", "right", "bottom", "truth", "prediction", "score"]
        _write_table(self._path, head, self._lines)

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        regions = self._regions(sample)
        boxes = np.array([box for box, *_ in regions]).reshape(-1, 4)
        truth, predicted = (
            [self._classes.color(int(label)) for label in _numpy(objects.labels)]
            for objects in (sample.gt_instances, sample.pred_instances)
        )
        return (
            instances(picture, boxes, truth, [name for _, name, _, _ in regions]),
            instances(picture, boxes, predicted, [f"{name} {score:.2f}" for _, _, name, score in regions]),
        )

    def _regions(self, sample: Any) -> list[tuple[list[float], str, str, float]]:
        """Box, truth, prediction and score of every region; the samples have the boxes in pixels of the input."""
        truth, predicted = sample.gt_instances, sample.pred_instances
        boxes = _numpy(truth.bboxes).reshape(-1, 4) / np.tile(sample.metainfo.get("scale_factor", (1.0, 1.0)), 2)
        expected, found = (
            [self._classes.name(int(label)) for label in _numpy(objects.labels)] for objects in (truth, predicted)
        )
        return list(zip(boxes.tolist(), expected, found, _numpy(predicted.scores).tolist(), strict=True))


class EmbeddingWriter:
    """Embeddings, and what they retrieve."""

    def __init__(self, folder: Path, classes: Classes) -> None:
        self._folder = folder
        self._classes = classes
        self._embeddings: list[NDArray] = []
        self._images: list[tuple[str, str, str]] = []  # name, role, labels

    def add(self, sample: Any, image: str) -> None:
        truth = _numpy(sample.gt_label).reshape(-1) if "gt_label" in sample else np.empty(0)
        names = ";".join(self._classes.name(int(index)) for index in truth)
        self._embeddings.append(_numpy(sample.embedding).astype(np.float32))
        self._images.append((image, str(sample.metainfo.get("role", "")), names))

    def finish(self) -> None:
        self._matrix = np.stack(self._embeddings)
        self._database = np.array([row for row, (_, role, _) in enumerate(self._images) if role != "query"], int)
        np.save(self._folder / "embeddings.npy", self._matrix)
        _write_table(self._folder / "embeddings.csv", ["image", "role", "labels"], self._images)
        lines = [
            [image, labels, rank, self._images[row][0], self._images[row][2], distance]
            for index, (image, role, labels) in enumerate(self._images)
            if role == "query"
            for rank, (row, distance) in enumerate(self._nearest(index), start=1)
        ]
        head = ["image", "truth", "rank", "retrieved", "labels", "distance"]
        _write_table(self._folder / "predictions.csv", head, lines)

    def panels(self, sample: Any, index: int, picture: Shown) -> tuple[Panel, Panel]:
        _, role, truth = self._images[index]
        found = [f"{self._images[row][2]}  {distance:.3g}" for row, distance in self._nearest(index)[:12]]
        return labels([*truth.split(";"), "", role]), labels(found or ["nothing"])

    def _nearest(self, index: int) -> list[tuple[int, float]]:
        """Rows of the nearest other images of the database, and their distances."""
        others = self._database[self._database != index]
        distances = np.abs(self._matrix[others] - self._matrix[index]).sum(axis=1)
        order = np.argsort(distances, kind="stable")[:_RETRIEVED]
        return [(int(others[place]), float(distances[place])) for place in order]


def _write_table(path: Path, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _writer_for(sample: Any, model: nn.Module) -> Callable[[Path, Classes], Writer]:
    if "pred_sem_seg" in sample:
        return MapWriter
    if "pred_instances" in sample:
        return RegionWriter if isinstance(model, RegionClassifier) else BoxWriter
    if "pred_label" in sample:
        return LabelWriter
    if "embedding" in sample:
        return EmbeddingWriter
    raise PredictionError(
        f"--out cannot write samples of {', '.join(sorted(sample.all_keys()))}: it knows boxes, masks, class maps, "
        "labels and embeddings; leave --out away"
    )


class PredictionHook(Hook):
    """Writes the predictions of a test while it runs.

    Args:
        folder: where the files go; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Writer | None = None
        self._seen = 0
        self._chosen: set[int] = set()
        self._shown: list[tuple[int, Any, list[Shown]]] = []

    def before_test_epoch(self, runner: Runner) -> None:
        if runner.world_size > 1:
            raise PredictionError("--out works in a single process; test without --launcher")
        length = len(runner.test_dataloader.dataset)
        self._chosen = set(np.linspace(0, length - 1, min(_SAMPLES, length)).round().astype(int).tolist())

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        images, samples = _images(data_batch), list(outputs or ())
        if len(images) != len(samples):
            raise PredictionError(f"--out needs one prediction an image, got {len(samples)} for {len(images)} images")
        for inputs, sample in zip(images, samples, strict=True):
            if self._writer is None:
                self._writer = _writer_for(sample, runner.model)(self._folder, _classes(runner.test_dataloader.dataset))
            self._writer.add(sample, self._name(sample, self._seen))
            if self._seen in self._chosen:
                dates = _dates(inputs, sample, runner.model)
                self._shown.append((self._seen, sample, show(dates, _visible_bands(dates[0], runner))))
            self._seen += 1

    def after_test_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        if self._writer is None:
            raise PredictionError("the test split gave no sample; there is nothing to write")
        self._writer.finish()
        sheet = Sheet()
        for index, sample, pictures in self._shown:
            truth, prediction = self._writer.panels(sample, index, pictures[-1])
            sheet.add(Path(self._name(sample, index)).name, pictures, truth, prediction)
        sheet.save(self._folder / "sheet.png")

    @staticmethod
    def _name(sample: Any, index: int) -> str:
        return str(sample.metainfo.get("img_path", f"{index:06d}"))


@contextmanager
def writing_predictions(runner: Runner, out: str | Path, overwrite: bool) -> Iterator[None]:
    """Within the block, ``runner.test()`` also fills ``out``; the folder appears when all went well, whole.

    Args:
        runner: a runner, not yet tested.
        out: folder to create.
        overwrite: replace an existing one.

    Raises:
        DataSourceError: ``out`` exists and ``overwrite`` is not set.
        PredictionError: predictions of an unknown kind.
    """
    with new_folder(out, overwrite) as partial:
        runner.register_hook(PredictionHook(partial), priority="LOWEST")
        yield


def _classes(dataset: Any) -> Classes:
    metainfo = getattr(dataset, "metainfo", {})
    ids = tuple(getattr(dataset, "cat_ids", ()))
    return Classes(class_names(metainfo), class_colors(metainfo), ids)


def _images(data_batch: Any) -> list[NDArray]:
    """Inputs of the samples, (bands, height, width), of the first view where there are several."""
    inputs = data_batch["inputs"]
    first = inputs[0]
    if isinstance(inputs, (list, tuple)) and (isinstance(first, (list, tuple)) or first.ndim == 4):
        inputs = first
    return [_numpy(image) for image in inputs]


def _dates(image: NDArray, sample: Any, model: nn.Module) -> list[NDArray]:
    """The image of every date at its original size, without padding.

    A siamese model is given the bands of both dates at once: as many times those of its first convolution.
    """
    original = sample.metainfo.get("ori_shape")
    factors = sample.metainfo.get("scale_factor", (1.0, 1.0))
    if original is not None:
        height = min(image.shape[1], max(1, round(original[0] * factors[1])))
        width = min(image.shape[2], max(1, round(original[1] * factors[0])))
        image = image[:, :height, :width]
    layers = getattr(model, "backbone", model).modules()
    first = next((module for module in layers if isinstance(module, nn.Conv2d)), None)
    bands = image.shape[0] if first is None or image.shape[0] % first.in_channels else first.in_channels
    size = None if original is None else (int(original[1]), int(original[0]))
    return [Shown.resized(image[start : start + bands], size) for start in range(0, image.shape[0], bands)]


def _visible_bands(image: NDArray, runner: Runner) -> tuple[int, int, int]:
    """Indices of red, green and blue: by the names that the data set gives, else by what the preprocessor does."""
    dataset = runner.test_dataloader.dataset
    given = getattr(dataset, "metainfo", {}).get("bands") or getattr(dataset, "bands", None) or ()
    names = [_SENTINEL_2.get(str(name).lower(), str(name).lower()) for name in given]
    if {"red", "green", "blue"} <= set(names):
        return names.index("red"), names.index("green"), names.index("blue")
    if image.shape[0] < 3:
        return 0, 0, 0
    preprocessor = runner.model.data_preprocessor
    swaps = getattr(preprocessor, "_channel_conversion", False) or getattr(preprocessor, "to_rgb", False)
    return (2, 1, 0) if swaps and image.shape[0] == 3 else (0, 1, 2)


def _numpy(values: Any) -> NDArray:
    values = getattr(values, "tensor", values)
    values = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(values.float() if str(getattr(values, "dtype", "")) == "torch.bfloat16" else values)


def _masks(objects: Any) -> NDArray | None:
    """(N, height, width) of bool, or None for objects without masks."""
    masks = objects.get("masks")
    if masks is None:
        return None
    return (masks.to_ndarray() if hasattr(masks, "to_ndarray") else _numpy(masks)).astype(bool)


def _run_lengths(mask: NDArray) -> dict[str, Any]:
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(edge) for edge in encoded["size"]], "counts": encoded["counts"].decode()}
