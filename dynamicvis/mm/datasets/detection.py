"""Detection and instance segmentation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from dynamicvis.data.coco import CocoFile, check_outline, read_coco_file
from dynamicvis.data.raster import DataError
from dynamicvis.registry import DATASETS

_TOLERANCE = 2.0  # pixels; annotation tools round outwards


class CheckedCoco(COCO):
    """mmdet's access to COCO annotations, read by the rules of `dynamicvis.data.coco`.

    Objects are numbered from 1, since pycocotools counts one of number 0 as missed in every evaluation. A region to be
    ignored has ``iscrowd`` 1 and, without an outline of its own, that of its box; an object without ``area`` has its
    box's.

    Args:
        annotation_file: path.

    Raises:
        DataError: see `read_coco_file`; or an image has no size.
    """

    def __init__(self, annotation_file: str) -> None:
        super().__init__(None)
        self.content = read_coco_file(annotation_file)
        self.dataset = _normalized(self.content)
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def _normalized(content: CocoFile) -> dict[str, Any]:
    images = []
    for image in content.images.values():
        size = {"width": image.width, "height": image.height}
        if None in size.values():
            raise DataError(f"{content.path}: image {image.id} ({image.file_name}) has no width or height; add them")
        images.append({**image.entry, **size, "id": image.id, "file_name": image.file_name})
    annotations = []
    for number, item in enumerate(content.objects, start=1):
        left, top, width, height = item.box
        entry = {**item.entry, "id": number, "image_id": item.image_id, "category_id": item.category_id}
        entry |= {"bbox": list(item.box), "iscrowd": int(item.ignored), "area": item.area or width * height}
        entry.pop("ignore", None)
        entry.pop("segmentation", None)
        outline = item.segmentation
        if item.ignored and outline is None:
            right, bottom = left + width, top + height
            outline = [[left, top, right, top, right, bottom, left, bottom]]
        annotations.append(entry if outline is None else entry | {"segmentation": outline})
    categories = [
        {**entry, "id": number, "name": name}
        for entry, (number, name) in zip(content.entries["categories"], content.categories.items(), strict=True)
    ]
    return {**content.entries, "images": images, "annotations": annotations, "categories": categories}


@DATASETS.register_module()
class CocoDataset(_CocoDataset):
    """mmdet's COCO data set, which says what is wrong with the annotations instead of training without them.

    mmdet drops objects of classes it does not know and boxes outside their image, trains on an empty list, and gives
    labels in the order of the file, whatever the order of the classes. Here these are errors. Annotations are read by
    the rules of `dynamicvis.data.coco`; crowds are regions to be ignored, and the log says how many there are.

    Arguments are those of ``mmdet.CocoDataset``; ``metainfo`` with ``classes`` is needed.

    Raises:
        DataError: the annotation file is missing, names the classes differently, has a box without area or outside its
            image, or an object of an unknown image or class, or without an outline where the pipeline loads masks; or
            no image is left after filtering.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Check the annotations, then read them as mmdet does."""
        if not Path(self.ann_file).is_file():
            raise DataError(
                f"{self.ann_file} does not exist; prepare the data set with `dynamicvis prepare`, and set "
                "DYNAMICVIS_DATA to the folder that holds the data sets if it is not 'data'"
            )
        samples = super().load_data_list()
        flags = Counter(instance["ignore_flag"] for sample in samples for instance in sample["instances"])
        if flags[1]:
            print_log(f"{self.ann_file}: {flags[0]} objects, and {flags[1]} crowd regions to be ignored", "current")
        return samples

    def COCOAPI(self, path: str) -> CheckedCoco:
        """The annotations, checked."""
        coco = CheckedCoco(path)
        masks = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        _check(coco.content, self.metainfo["classes"], masks=masks)
        return coco

    def filter_data(self) -> list[dict[str, Any]]:
        """What is left for training after ``filter_cfg``."""
        filtered = super().filter_data()
        if not filtered:
            raise DataError(
                f"{self.ann_file} leaves no image: of its {len(self.data_list)} images none passes filter_cfg="
                f"{self.filter_cfg}; check the split"
            )
        return filtered


def _check(content: CocoFile, classes: Sequence[str], *, masks: bool) -> None:
    path, names = content.path, content.categories
    if [name for name in names.values() if name in classes] != list(classes):
        raise DataError(
            f"{path} has the classes {', '.join(names.values())}, the config {', '.join(classes)}; metainfo.classes of "
            "the config must name classes of the file, in its order"
        )
    for item in content.objects:
        image = content.images[item.image_id]
        if item.category_id not in names:
            raise DataError(f"{path}: {item.name} has category {item.category_id}, which is not listed")
        assert image.width is not None
        assert image.height is not None
        left, top, width, height = item.box
        right, bottom = image.width + _TOLERANCE, image.height + _TOLERANCE
        if min(width, height) <= 0 or min(left, top) < -_TOLERANCE or left + width > right or top + height > bottom:
            raise DataError(
                f"{item.source}: the box {list(item.box)} (left, top, width, height) has no area inside its image of "
                f"{image.width} x {image.height} pixels; correct or remove it"
            )
        check_outline(item)
        if masks and item.segmentation is None and not item.ignored:
            raise DataError(f"{item.source} has no segmentation, and masks are asked for; add it, or train on boxes")
