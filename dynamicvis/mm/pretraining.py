"""The model of pretraining and region classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, cat

import dynamicvis.pretraining as core
from dynamicvis.pretraining import RegionHead, to_regions
from dynamicvis.registry import MODELS


@MODELS.register_module()
class RegionClassifier(core.RegionClassifier, BaseModel):
    """Classes of given regions, ``type="dynamicvis.RegionClassifier"``: the ground-truth boxes of mmdet's data samples.

    Parameter names are those of :class:`dynamicvis.pretraining.RegionClassifier`.

    Args:
        backbone: config of a backbone with maps of strides 4, 8, 16, 32.
        in_channels: channels of its maps.
        num_classes: number of classes.
        data_preprocessor: config of a preprocessor for detection.
        channels: of the pyramid and the region features.
        label_smoothing, contrast_weight, embeddings, classes, fit_width: see
            :class:`dynamicvis.pretraining.RegionHead`.
        init_cfg: of MMEngine.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        in_channels: Sequence[int],
        num_classes: int,
        data_preprocessor: Mapping[str, Any],
        channels: int = 256,
        label_smoothing: float = 0.1,
        contrast_weight: float = 0.5,
        embeddings: str | Path | None = None,
        classes: Sequence[str] | None = None,
        fit_width: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        head = RegionHead(num_classes, channels, label_smoothing, contrast_weight, embeddings, classes, fit_width)
        super().__init__(MODELS.build(backbone), in_channels, head)
        self.data_preprocessor = MODELS.build(data_preprocessor)
        self.init_cfg = init_cfg

    def forward(  # type: ignore[override]
        self, inputs: Tensor, data_samples: Sequence[DetDataSample], mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor] | list[DetDataSample]:
        """Losses, predictions or features of the regions.

        Args:
            inputs: (batch, bands, height, width), preprocessed.
            data_samples: one an image, with ``gt_instances.bboxes`` (count, 4) and, for losses, ``labels``.
            mode: ``"loss"``; ``"predict"``, which adds ``pred_instances`` with ``bboxes``, ``labels`` and ``scores`` to
                the samples; or ``"tensor"`` for the features.
        """
        boxes = [sample.gt_instances.bboxes for sample in data_samples]
        regions = to_regions(boxes)
        if mode == "loss":
            labels = cat([sample.gt_instances.labels for sample in data_samples])
            return super().forward(inputs, regions, labels)
        features = self.features(inputs, regions)
        if mode == "tensor":
            return features
        probabilities = self.head(features).softmax(dim=1).split([len(box) for box in boxes])
        for sample, box, probability in zip(data_samples, boxes, probabilities, strict=True):
            scores, labels = probability.max(dim=1)
            sample.pred_instances = InstanceData(bboxes=box, labels=labels, scores=scores)
        return list(data_samples)
