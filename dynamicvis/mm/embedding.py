"""A model that only embeds: for retrieval, and for the evaluation of frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from dynamicvis.checkpoint import CheckpointError
from dynamicvis.registry import MODELS
from dynamicvis.retrieval import spatial_mean


@MODELS.register_module()
class Embedder(BaseModel):
    """A frozen backbone whose last map is averaged over its pixels to one vector an image.

    It is evaluated, never trained. The weights come from any checkpoint of a run whose model has a ``backbone``: a
    classifier, a detector, the pretraining. Prediction adds ``embedding`` (D,) to every data sample.

    Args:
        backbone: config of the backbone.
        data_preprocessor: config of the preprocessor; the one that the weights were trained with.
        init_cfg: None, or as MMEngine defines it.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.requires_grad_(False)

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] | None = None, mode: str = "tensor") -> Any:
        """Embeddings (B, D) of images (B, C, H, W), in mode ``"predict"`` as the data samples that hold them.

        Raises:
            ValueError: mode ``"loss"``; nothing is trained here.
        """
        if mode == "loss":
            raise ValueError("an Embedder is not trained; train its backbone with another model, such as a classifier")
        with torch.no_grad():
            embeddings = spatial_mean(self.backbone(inputs))
        if mode == "tensor" or data_samples is None:
            return embeddings
        for sample, embedding in zip(data_samples, embeddings, strict=True):
            sample.set_field(embedding, "embedding")
        return data_samples

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Refuse a checkpoint without the whole backbone: figures of random weights look like figures."""
        expected = {f"{prefix}backbone.{name}": value for name, value in self.backbone.state_dict().items()}
        wrong = [
            name for name, value in expected.items() if name not in state_dict or state_dict[name].shape != value.shape
        ]
        if wrong:
            found = "is not in it" if wrong[0] not in state_dict else f"has shape {tuple(state_dict[wrong[0]].shape)}"
            raise CheckpointError(
                f"the checkpoint does not fit the backbone: {len(wrong)} of {len(expected)} parameters, {wrong[0]} "
                f"{found}, needed is {tuple(expected[wrong[0]].shape)}; set model.backbone as in the config that the "
                "checkpoint was trained with, or convert a reference's checkpoint by `dynamicvis convert`"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
