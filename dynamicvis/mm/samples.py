"""Samples on their way from a data set to the model: what is wrong with one is said with its name."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection, Iterator
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch import Tensor, nn

from dynamicvis.checkpoint import printable
from dynamicvis.data.raster import DataError
from dynamicvis.mm.errors import ConfigError
from dynamicvis.mm.loading import IGNORE_INDEX

# Where the models of mmdet, mmseg and mmpretrain have the head whose classes are those of the data set.
_HEADS = ("bbox_head", "decode_head", "head", "roi_head.bbox_head")


def check_samples(dataset: Any, ignored: Collection[int] = (IGNORE_INDEX,)) -> None:
    """Let a data set, however it is wrapped, check each sample that its pipeline gives; once the call suffices.

    In place of whatever its transforms raise, a sample that cannot be used raises an error that names it. Labels must
    be classes of ``metainfo``, boxes finite with their corners in order, and in training a map of classes as large as
    its image.

    Args:
        dataset: of MMEngine; others are left alone.
        ignored: values of a map of classes that stand for pixels without a class.

    Raises:
        DataError: when such a sample is asked for; or in training after as many samples without a result, one after the
            other, as the data set tries.
    """
    for inner in _data_sets(dataset):
        inner.prepare_data = _Checked(inner, frozenset(ignored))


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Compare the number of classes of the model's head with that of a data set.

    Raises:
        ConfigError: the data set has more.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    for name in _HEADS:
        head: Any = model
        for part in name.split("."):
            head = getattr(head, part, None)
        number = getattr(head, "num_classes", None)
        # One class is mmseg's way of a foreground alone.
        if isinstance(number, int) and 1 < number < len(classes):
            raise ConfigError(
                f"the data set has {len(classes)} classes and the model's {name} {number}; set "
                f"model.{name}.num_classes to {len(classes)}, or name fewer in metainfo.classes"
            )


def _data_sets(dataset: Any) -> Iterator[BaseDataset]:
    if isinstance(dataset, BaseDataset):
        yield dataset
    for inner in (*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)):
        if inner is not None:
            yield from _data_sets(inner)


class _Checked:
    """Takes the place of a data set's ``prepare_data``."""

    def __init__(self, dataset: BaseDataset, ignored: frozenset[int]) -> None:
        self.dataset, self.ignored = dataset, ignored
        self.without = 0

    def __call__(self, index: int) -> Any:
        dataset = self.dataset
        try:
            sample = type(dataset).prepare_data(dataset, index)
        except DataError:
            raise
        except Exception as error:
            # The traceback is for whoever wrote the transform; the message for whoever has the data.
            print_log(traceback.format_exc(), logger="current", level=logging.DEBUG)
            reason = f"{type(error).__name__}: {printable(str(error))}"
            raise DataError(f"{self._name(index)} cannot be loaded ({reason}); correct it or leave it out") from error
        if sample is None:
            self.without += 1
            if dataset.test_mode:
                raise DataError(
                    f"{self._name(index)} cannot be tested: the pipeline drops it; leave it out of the split"
                )
            if self.without > dataset.max_refetch:
                raise DataError(
                    f"{self.without} samples one after the other were dropped by the pipeline, the last being "
                    f"{self._name(index)}; see the log for images that cannot be read, and check the pipeline's filters"
                )
            return None
        self.without = 0
        problem = sample_problem(sample, len(dataset.metainfo.get("classes") or ()), self.ignored)
        if problem is not None:
            raise DataError(f"{self._name(index)} {problem}; correct it or leave it out")
        return sample

    def _name(self, index: int) -> str:
        info = self.dataset.get_data_info(index)
        paths = [info[key] for key in ("img_path", "seg_map_path") if info.get(key)]
        return " with ".join(map(str, paths)) or f"sample {index} of {type(self.dataset).__name__}"


def sample_problem(sample: Any, classes: int, ignored: Collection[int]) -> str | None:
    """What is wrong with the labels of a packed sample, to be put behind its name, or None.

    A map of classes has the size of the inputs or, as pipelines of a test leave it, that of the image as loaded.

    Args:
        sample: ``inputs`` and ``data_samples``, as the last transform of a pipeline gives them.
        classes: their number; 0 where it is not known.
        ignored: values of a map of classes that stand for pixels without a class.
    """
    labelled = sample.get("data_samples") if isinstance(sample, dict) else None
    if labelled is None or isinstance(labelled, list):
        return None
    found: list[str | None] = []
    if isinstance(labels := getattr(labelled, "gt_label", None), Tensor):
        found.append(_label_problem(labels, classes))
    if (instances := getattr(labelled, "gt_instances", None)) is not None:
        if isinstance(labels := getattr(instances, "labels", None), Tensor):
            found.append(_label_problem(labels, classes))
        boxes = getattr(instances, "bboxes", None)
        found.append(_box_problem(getattr(boxes, "tensor", boxes)))
    if (segments := getattr(labelled, "gt_sem_seg", None)) is not None:
        inputs, loaded = sample.get("inputs"), labelled.metainfo.get("ori_shape")
        size = inputs.shape[-2:] if isinstance(inputs, Tensor) else None
        if size is not None and loaded is not None and segments.data.shape[-2:] == tuple(loaded)[:2]:
            size = None
        found.append(_map_problem(segments.data, classes, ignored, size))
    return next((problem for problem in found if problem is not None), None)


def _label_problem(labels: Tensor, classes: int) -> str | None:
    if labels.is_floating_point() and not bool((labels == labels.round()).all()):
        return f"has the label {_first(labels, labels != labels.round())}, which is no class number"
    if classes and bool((wrong := (labels < 0) | (labels >= classes)).any()):
        return f"has the label {_first(labels, wrong)}, and the classes are 0 to {classes - 1}"
    return None


def _box_problem(boxes: Any) -> str | None:
    if not isinstance(boxes, Tensor) or boxes.ndim != 2:
        return None
    wrong = ~torch.isfinite(boxes).all(dim=1)
    if boxes.shape[1] == 4:
        wrong |= (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if bool(wrong.any()):
        return f"has the box {[round(value, 2) for value in boxes[wrong][0].tolist()]}, which is none"
    return None


def _map_problem(values: Tensor, classes: int, ignored: Collection[int], size: torch.Size | None) -> str | None:
    if size is not None and values.shape[-2:] != size:
        (height, width), (rows, columns) = size, values.shape[-2:]
        return f"has a mask of {columns} x {rows} pixels where its image is {width} x {height}"
    if values.is_floating_point() and not bool((values == values.round()).all()):
        return f"has the mask value {_first(values, values != values.round())}, which is no class number"
    if not classes or not values.numel():
        return None
    lowest, highest = (int(value) for value in torch.aminmax(values))
    if lowest >= 0 and highest < classes:
        return None
    wrong = (values < 0) | (values >= classes)
    for value in ignored:
        wrong &= values != value
    if bool(wrong.any()):
        return f"has the mask value {_first(values, wrong)}, and the classes are 0 to {classes - 1}"
    return None


def _first(values: Tensor, wrong: Tensor) -> str:
    return f"{values[wrong][0].item():g}"
