"""torchgeo's data sets as plain arrays: what a sample means is read from its keys, for torchgeo 0.8 to 0.10."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dynamicvis.data.raster import DataError

Task = Literal["classification", "segmentation", "change", "detection"]

IGNORE_INDEX = 255
_PAIRS = (("image1", "image2"), ("image_pre", "image_post"))


@dataclass(frozen=True)
class TorchGeoSample:
    """One image with its annotation.

    Attributes:
        image: (H, W, C) float32 in the data set's units, bands in its order (RGB for ordinary images); for change
            detection both dates, the earlier first, one behind the other on the channels.
        labels: classification: its classes, mostly one; detection: (N,) a class a box.
        mask: (H, W) uint8 class numbers, 255 to be ignored, for segmentation and change detection.
        boxes: (N, 4) float32 xyxy, pixels, for detection.
        instance_masks: (N, H, W) uint8 of 0 and 1, for detection where the data set has them.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    mask: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None
    instance_masks: NDArray[np.uint8] | None = None


class TorchGeoSource:
    """A torchgeo data set for classification, segmentation, change detection or detection.

    Args:
        name: class in ``torchgeo.datasets``, such as ``"LEVIRCD"``.
        classes: names of the classes; None takes those that the data set declares, or ``unchanged`` and ``changed``.
        settings: the class's own arguments: ``root``, ``split``, ``bands``, ``checksum``, ...

    Attributes:
        task: read from the first sample.
        classes: names of the classes; a leading ``background`` of a detection data set is none.

    Raises:
        DataError: torchgeo is not installed, the name or a setting is unknown, the data are not there or empty, the
            data set is of another kind, or the classes cannot be told.
    """

    def __init__(self, name: str, classes: Sequence[str] | None = None, **settings: Any) -> None:
        self.name = name
        self._dataset = _open(name, settings)
        declared = _declared_classes(self._dataset)
        if len(self._dataset) == 0:
            raise DataError(f"torchgeo's {name} with {_shown(settings)} has no samples; check root and split")
        sample = self._sample(0)
        self.task: Task = self._task(sample)
        # Of the classes of objects, background is none: their labels count from 1.
        self._first_label = 0
        if self.task == "detection" and declared and declared[0].lower() == "background":
            self._first_label = 1
        if classes is None:
            classes = declared[self._first_label :]
        if not classes and self.task == "change":
            classes = ("unchanged", "changed")
        if not classes:
            raise DataError(
                f"torchgeo's {name} does not say what its classes are; give them as metainfo=dict(classes=(...,))"
            )
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> TorchGeoSample:
        """The sample at ``index``.

        Raises:
            DataError: it cannot be read, or its annotation is not what the task needs.
        """
        sample = self._sample(index)
        image = self._image(sample, index)
        if self.task == "classification":
            return TorchGeoSample(image, labels=self._labels(sample, index))
        if self.task == "detection":
            return self._detection(sample, image, index)
        return TorchGeoSample(image, mask=self._mask(sample, image.shape[:2], index))

    def _where(self, index: int) -> str:
        return f"sample {index} of torchgeo's {self.name}"

    def _sample(self, index: int) -> Mapping[str, Any]:
        try:
            return self._dataset[index]
        except Exception as error:  # whatever its readers raise
            raise DataError(
                f"{self._where(index)} cannot be read ({type(error).__name__}: {error}); get its files anew"
            ) from error

    def _task(self, sample: Mapping[str, Any]) -> Task:
        if "bbox_xyxy" in sample or hasattr(self._dataset, "categories"):
            return "detection"
        if "bbox" in sample:
            raise DataError(
                f"torchgeo's {self.name} gives oriented boxes, which no head here takes; where it offers them, ask for "
                'upright ones by bbox_orientation="horizontal"'
            )
        if "mask" in sample:
            pair = any(first in sample for first, _ in _PAIRS) or sample["image"].ndim == 4
            return "change" if pair else "segmentation"
        label = sample.get("label")
        if isinstance(label, int) or (isinstance(label, Tensor) and not label.is_floating_point() and label.ndim <= 1):
            return "classification"
        raise DataError(
            f"torchgeo's {self.name} is for another task: its samples hold {', '.join(sample)}, needed is one of label "
            "(classes), mask, bbox_xyxy"
        )

    def _image(self, sample: Mapping[str, Any], index: int) -> NDArray[np.float32]:
        dates = [sample["image"]] if "image" in sample else []
        for pair in _PAIRS:
            if pair[0] in sample:
                dates = [sample[key] for key in pair]
        if len(dates) == 1 and dates[0].ndim == 4:
            dates = list(dates[0])
        expected = 2 if self.task == "change" else 1
        if len(dates) != expected or any(date.ndim != 3 or date.shape[1:] != dates[0].shape[1:] for date in dates):
            raise DataError(
                f"{self._where(index)} has images of shapes {[tuple(date.shape) for date in dates]}; "
                f"{self.task} needs {expected} of (C, H, W), of one size"
            )
        return np.concatenate([date.numpy().transpose(1, 2, 0) for date in dates], axis=2, dtype=np.float32)

    def _labels(self, sample: Mapping[str, Any], index: int) -> NDArray[np.int64]:
        label = np.asarray(sample["label"])
        # A vector is multi-hot: a class is on or off.
        labels = np.flatnonzero(label) if label.ndim else label.reshape(1).astype(np.int64)
        return self._checked(labels, index)

    def _checked(self, labels: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        wrong = labels[(labels < 0) | (labels >= len(self.classes))]
        if len(wrong):
            raise DataError(
                f"{self._where(index)} has label {wrong[0]}, which is none of its {len(self.classes)} classes "
                f"({', '.join(self.classes)}); give the right ones as metainfo=dict(classes=(...,))"
            )
        return labels

    def _mask(self, sample: Mapping[str, Any], size: tuple[int, ...], index: int) -> NDArray[np.uint8]:
        mask = sample["mask"].numpy()
        if mask.ndim == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.shape != size:
            raise DataError(
                f"{self._where(index)} has a mask of shape {mask.shape} and an image of {size[0]} x {size[1]} pixels; "
                "needed is one mask of the image's size"
            )
        if self.task == "change" and len(self.classes) == 2:
            return (mask > 0).astype(np.uint8)
        wrong = mask[(mask < 0) | ((mask >= len(self.classes)) & (mask != IGNORE_INDEX))]
        if wrong.size:
            raise DataError(
                f"{self._where(index)} has the value {wrong.flat[0]} in its mask, which is none of its "
                f"{len(self.classes)} classes ({', '.join(self.classes)}) nor {IGNORE_INDEX}, to be ignored; give the "
                "right ones as metainfo=dict(classes=(...,))"
            )
        return mask.astype(np.uint8)

    def _detection(self, sample: Mapping[str, Any], image: NDArray[np.float32], index: int) -> TorchGeoSample:
        size = image.shape[:2]
        if "bbox_xyxy" not in sample:  # images without objects
            return TorchGeoSample(
                image, boxes=np.zeros((0, 4), np.float32), instance_masks=np.zeros((0, *size), np.uint8)
            )
        boxes = sample["bbox_xyxy"].numpy().astype(np.float32)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise DataError(f"{self._where(index)} has boxes of shape {boxes.shape}; needed are upright ones, (N, 4)")
        # A data set of one class has no labels.
        labels = np.asarray(sample.get("label", np.zeros(len(boxes))), dtype=np.int64) - self._first_label
        if labels.shape != (len(boxes),):
            raise DataError(f"{self._where(index)} has {len(boxes)} boxes and labels of shape {labels.shape}")
        masks = sample["mask"].numpy().astype(np.uint8) if "mask" in sample else None
        if masks is not None and masks.shape != (len(boxes), *size):
            raise DataError(f"{self._where(index)} has {len(boxes)} boxes and masks of shape {masks.shape}")
        return TorchGeoSample(image, labels=self._checked(labels, index), boxes=boxes, instance_masks=masks)


def _open(name: str, settings: Mapping[str, Any]) -> Any:
    """Build the data set; every failure is told in the user's words."""
    try:
        import torchgeo.datasets as catalogue
    except ImportError as error:
        raise DataError(
            f"the data set {name} comes with torchgeo, which cannot be imported ({error}); "
            "pip install 'dynamicvis[torchgeo]'"
        ) from error
    kind = getattr(catalogue, name, None)
    known = [entry for entry in catalogue.__all__ if isinstance(getattr(catalogue, entry), type)]
    if name not in known or kind is None:
        spellings = {known_name.lower(): known_name for known_name in known}
        close = [spellings[match] for match in difflib.get_close_matches(name.lower(), spellings, n=3)]
        hint = f"did you mean {' or '.join(close)}?" if close else "torchgeo.datasets lists them"
        raise DataError(f"torchgeo has no data set {name!r}; {hint}")
    if not issubclass(kind, catalogue.NonGeoDataset):
        raise DataError(
            f"torchgeo's {name} is sampled by place, not by number, so that it has no list of images; cut it into "
            "images first, or take a data set that is a torchgeo NonGeoDataset"
        )
    try:
        return kind(**settings)
    except catalogue.DatasetNotFoundError as error:
        raise DataError(
            f"the data of torchgeo's {name} are not where {_shown(settings)} says ({error}); download them once by "
            f'`python -c "import torchgeo.datasets as t; t.{name}(root={settings.get("root", "data")!r}, '
            'download=True)"`, or set root'
        ) from error
    except catalogue.DependencyNotFoundError as error:
        raise DataError(f"torchgeo's {name} needs another package: {str(error).strip()}") from error
    except (AssertionError, TypeError, ValueError, KeyError, OSError) as error:
        offered = getattr(kind, "splits", None)
        hint = f"; its splits are {', '.join(offered)}" if offered else ""
        raise DataError(
            f"torchgeo's {name} cannot be opened with {_shown(settings)} ({type(error).__name__}: {error}){hint}"
        ) from error


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its default settings"


def _declared_classes(dataset: Any) -> tuple[str, ...]:
    """Names that the data set gives its classes, in the order of their numbers; none where it gives no names."""
    for attribute in ("categories", "classes"):
        names = getattr(dataset, attribute, None)
        if names:
            return tuple(str(name) for name in names)
    sets = getattr(dataset, "class_sets", {})
    return tuple(sets.get(getattr(dataset, "num_classes", None), ()))
