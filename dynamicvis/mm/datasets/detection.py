"""Detection and instance segmentation sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset as _CocoDataset

from dynamicvis.data.raster import DataError
from dynamicvis.registry import DATASETS

_TOLERANCE = 2.0  # pixels; annotation tools round outwards


@DATASETS.register_module()
class CocoDataset(_CocoDataset):
    """mmdet's COCO data set, which says what is wrong with the annotations instead of training without them.

    mmdet drops objects of classes it does not know and boxes outside their image, trains on an empty list, and gives
    labels in the order of the file, whatever the order of the classes. Here these are errors.

    Arguments are those of ``mmdet.CocoDataset``; ``metainfo`` with ``classes`` is needed.

    Raises:
        DataError: the annotation file is missing, names the classes differently, has a box without area or outside its
            image, or an object of an unknown image or class; or no image is left after filtering.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Check the annotations, then read them as mmdet does."""
        if not Path(self.ann_file).is_file():
            raise DataError(
                f"{self.ann_file} does not exist; prepare the data set with tools/prepare_data.py, and set "
                "DYNAMICVIS_DATA to the folder that holds the data sets if it is not 'data'"
            )
        try:
            content = json.loads(Path(self.ann_file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.ann_file} cannot be read as JSON ({error}); prepare the data set again") from error
        _check(content, str(self.ann_file), self.metainfo["classes"])
        return super().load_data_list()

    def filter_data(self) -> list[dict[str, Any]]:
        """What is left for training after ``filter_cfg``."""
        filtered = super().filter_data()
        if not filtered:
            raise DataError(
                f"{self.ann_file} leaves no image: of its {len(self.data_list)} images none passes filter_cfg="
                f"{self.filter_cfg}; check the split"
            )
        return filtered


def _check(content: Mapping[str, Any], path: str, classes: Sequence[str]) -> None:
    lacking = [name for name in ("images", "annotations", "categories") if name not in content]
    if lacking:
        raise DataError(f"{path} has no '{lacking[0]}', which COCO annotations have; prepare the data set again")
    names = {category["id"]: category["name"] for category in content["categories"]}
    if [name for name in names.values() if name in classes] != list(classes):
        raise DataError(
            f"{path} has the classes {', '.join(names.values())}, the config {', '.join(classes)}; metainfo.classes of "
            "the config must name classes of the file, in its order"
        )
    images = {image["id"]: image for image in content["images"]}
    for item in content["annotations"]:
        image = images.get(item["image_id"])
        if image is None:
            raise DataError(f"{path}: object {item['id']} belongs to image {item['image_id']}, which is not listed")
        if item["category_id"] not in names:
            raise DataError(f"{path}: object {item['id']} has category {item['category_id']}, which is not listed")
        left, top, width, height = item["bbox"]
        right, bottom = image["width"] + _TOLERANCE, image["height"] + _TOLERANCE
        if min(width, height) <= 0 or min(left, top) < -_TOLERANCE or left + width > right or top + height > bottom:
            raise DataError(
                f"{path}: the box {item['bbox']} (left, top, width, height) of object {item['id']} has no area inside "
                f"its image {image['file_name']} of {image['width']} x {image['height']} pixels; correct or remove it"
            )
