"""Any data set of torchgeo in a config of mmpretrain, mmseg or mmdet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from dynamicvis.data.torchgeo_bridge import TorchGeoSample, TorchGeoSource
from dynamicvis.registry import DATASETS


@DATASETS.register_module()
class TorchGeo(BaseDataset):
    """A torchgeo data set: ``dict(type="dynamicvis.TorchGeo", name="LEVIRCD", root=..., split="train", pipeline=...)``.

    What it is for is read from its first sample. The pipeline starts with the image in memory, so it has no transforms
    that load. Bands keep torchgeo's order, which is RGB for ordinary images: ``bgr_to_rgb`` or ``to_rgb`` of a data
    preprocessor stays False. Keys of a sample:

    - all: ``img`` (H, W, C) float32, ``img_shape``, ``ori_shape``, ``img_id``, and ``img_path``, which names the
      sample and is no file;
    - classification: ``gt_label``, a class, or a list of classes where images have several;
    - segmentation and change detection: ``gt_seg_map`` (H, W) uint8, 255 to be ignored; ``seg_fields``. In change
      detection ``img`` holds both dates one behind the other on the channels, the earlier first, and in
      ``gt_seg_map`` 1 is a change;
    - detection: ``gt_bboxes`` (boxes of mmdet, xyxy), ``gt_bboxes_labels``, ``gt_ignore_flags``, ``gt_masks`` where the
      data set has instance masks, and ``instances``, which ``PackDetInputs`` has to name in ``meta_keys`` where
      ``CocoMetric`` is used without an annotation file.

    Args:
        name: class in ``torchgeo.datasets``.
        pipeline: transforms.
        metainfo: ``dict(classes=...)`` for a data set that does not name its classes.
        indices: of the samples to use, or how many of the first; None for all.
        test_mode: whether a sample that the pipeline drops is an error, as in testing, or is replaced by another.
        role: ``"query"`` or ``"database"``, where features are compared; None otherwise.
        settings: arguments of the torchgeo class: ``root``, ``split``, ``bands``, ``checksum``, ...

    Raises:
        DataError: see `dynamicvis.data.torchgeo_bridge.TorchGeoSource`.
    """

    def __init__(
        self,
        name: str,
        *,
        pipeline: Sequence[Any] = (),
        metainfo: Mapping[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        test_mode: bool = False,
        role: str | None = None,
        **settings: Any,
    ) -> None:
        self.name = name
        self.role = role
        given = dict(metainfo or {})
        self.source = TorchGeoSource(name, given.get("classes"), **settings)
        super().__init__(
            metainfo=given | {"classes": self.source.classes},
            indices=indices,
            pipeline=list(pipeline),
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Positions in torchgeo's data set; images and annotations are read one by one."""
        return [{"img_id": index, "img_path": f"{self.name}-{index}"} for index in range(len(self.source))]

    def prepare_data(self, idx: int) -> Any:
        """Sample ``idx`` after the pipeline."""
        info = self.get_data_info(idx)
        sample = self.source[info["img_id"]]
        size = sample.image.shape[:2]
        info |= {"img": sample.image, "img_shape": size, "ori_shape": size, "role": self.role}
        if sample.boxes is not None:
            info |= _boxes(sample)
        elif sample.mask is not None:
            info |= {"gt_seg_map": sample.mask, "seg_fields": ["gt_seg_map"], "reduce_zero_label": False}
        else:
            labels = sample.labels.tolist()
            info["gt_label"] = labels[0] if len(labels) == 1 else labels
        return self.pipeline(info)


def _boxes(sample: TorchGeoSample) -> dict[str, Any]:
    """Annotation of a detection sample as mmdet's transforms have it after loading."""
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    assert sample.boxes is not None
    result = {
        "gt_bboxes": HorizontalBoxes(sample.boxes),
        "gt_bboxes_labels": sample.labels,
        "gt_ignore_flags": np.zeros(len(sample.boxes), dtype=bool),
        "instances": [
            {"bbox": box, "bbox_label": label, "ignore_flag": 0}
            for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True)
        ],
    }
    if sample.instance_masks is not None:
        masks = BitmapMasks(sample.instance_masks, *sample.image.shape[:2])
        result["gt_masks"] = masks
        for instance, mask in zip(result["instances"], sample.instance_masks, strict=True):
            instance["mask"] = _run_lengths(mask)
    return result


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W)."""
    from pycocotools.mask import encode

    encoded = encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}
