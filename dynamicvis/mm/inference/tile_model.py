"""An OpenMMLab model as the GeoTIFF engine calls it: tiles in raster units in, results in pixels of the raster out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dynamicvis.mm.inference.caps import ObjectCaps
from dynamicvis.model_card import ModelCard, ModelFileError
from dynamicvis.retrieval import spatial_mean
from dynamicvis.tensors import is_finite
from dynamicvis.text import first_sentence
from dynamicvis.tile_model import TileObjects, TileOutputs

_STRIDES = (4, 8, 16, 32)  # of the backbone's stages
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)


class _NotFinite(ArithmeticError):
    """A part of a model gave NaN or infinity, which later parts would drop without a word."""


def _require_finite(module: torch.nn.Module, inputs: Any, output: Any) -> None:
    """Hook of a part of a model.

    Raises:
        _NotFinite: a tensor of its output is not finite.
    """
    waiting = [output]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Tensor) and value.is_floating_point() and not is_finite(value):
            raise _NotFinite(type(module).__name__)


@dataclass(frozen=True)
class _Batch:
    """Normalised images (B, C, H, W), and the height and width of the tiles that they were made of."""

    images: Tensor
    size: tuple[int, int]

    def metas(self) -> list[dict[str, Any]]:
        """What OpenMMLab's models want to know of each image."""
        shape = tuple(self.images.shape[2:])
        factors = shape[1] / self.size[1], shape[0] / self.size[0]
        meta = {"img_shape": shape, "pad_shape": shape, "batch_input_shape": shape, "ori_shape": self.size}
        return [{**meta, "scale_factor": factors} for _ in self.images]


class OpenMMLabModel:
    """An OpenMMLab model, or its backbone alone, with its model card.

    Args:
        model: the model, with its weights, in evaluation mode.
        card: card of the whole model.
        device: where it runs.
        selection, embedding: as for `dynamicvis.geo.load_model`; with ``embedding``, only ``model.backbone`` is used.

    Attributes:
        card: the model card; for embeddings of a model of another task, of task ``"embedding"``.
        device: where it runs.

    Raises:
        ModelFileError: ``selection`` is asked of a model that selects no tokens.
    """

    def __init__(
        self, model: Any, card: ModelCard, device: torch.device, *, selection: bool = False, embedding: bool = False
    ) -> None:
        self.card = replace(card, task="embedding") if embedding else card
        self.device = device
        self._model = model.to(device)
        for part in (model, getattr(model, "roi_head", None)):
            for child in part.children() if part is not None else ():
                child.register_forward_hook(_require_finite)
        self._dates = 2 if self.card.task == "change" else 1
        self._mean = torch.tensor(card.mean * self._dates, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._std = torch.tensor(card.std * self._dates, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._selecting = _selecting_stages(model, card) if selection else ()
        if selection:
            model.backbone.record_selection = True
        if card.task == "instance_segmentation" and not embedding:
            _without_unreported(model, card)
        finds_objects = self.card.task in ("detection", "instance_segmentation")
        self._caps = ObjectCaps(model, card.tile**2) if finds_objects else None

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Results for a batch of tiles; each tile's are its own, whatever else is in the batch, up to rounding.

        Args:
            images: (B, bands, height, width) in raster units, bands in the order of ``card.bands``; of a model for
                change, the bands of the first date, then those of the second.

        Returns:
            By the task of ``card``: objects with scores of at least ``card.score_threshold``, best first, with the
            most that there can be, a number that grows with the area of the window beyond ``card.tile``; the map
            ``"scores"`` (B, classes, height, width), probabilities; or vectors, probabilities of the classes or
            embeddings. And the map ``"selection"`` (B, stages with a router, height, width) if it was asked for.

        Raises:
            ValueError: ``images`` has another shape or number of bands.
            ModelFileError: the model cannot compute what its card says.
        """
        bands = self._dates * len(self.card.bands)
        if images.ndim != 4 or images.shape[1] != bands or not images.size:
            raise ValueError(
                f"model '{self.card.name}' takes windows of {bands} bands as (B, {bands}, height, width), "
                f"got an array of shape {images.shape}"
            )
        with torch.inference_mode():
            batch = self._prepare(images)
            if self._caps is not None:
                self._caps.fit(*batch.size)
            try:
                outputs = _ANSWERS[self.card.task](self._model, batch, self.card)
            except torch.OutOfMemoryError:
                raise
            except _NotFinite as error:
                raise ModelFileError(
                    f"model '{self.card.name}' computes NaN or infinity on a window with values from "
                    f"{images.min():g} to {images.max():g}: its weights, or these values, are far beyond what it can "
                    "compute with; correct the scene or its NoData value, or export the model from a sound run"
                ) from error
            except _FAULTS as error:  # OpenMMLab's code, led astray by the settings in the file
                raise ModelFileError(
                    f"model '{self.card.name}' fails on windows of shape {tuple(images.shape)} "
                    f"({first_sentence(error)}); its card describes a model that cannot run: export it again"
                ) from error
            if self._caps is not None and outputs.objects is not None:
                most = self._caps.most
                outputs = replace(outputs, objects=[replace(found, most=most) for found in outputs.objects])
            if self._selecting:
                outputs = replace(outputs, maps={**outputs.maps, "selection": self._selection(batch)})
        return outputs

    def _prepare(self, images: NDArray[np.float32]) -> _Batch:
        values = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(self.device)
        if self.card.clip:
            values = values.clamp(*self.card.value_range)
        values = (values - self._mean) / self._std
        height, width = images.shape[2:]
        # As mmcv rounds the size of a resized image.
        size = [max(1, int(edge * self.card.scale + 0.5)) for edge in (height, width)]
        if size != [height, width]:
            values = _resize(values, size, self.card.interpolation)
        return _Batch(values, (height, width))

    def _selection(self, batch: _Batch) -> NDArray[np.float32]:
        """Where any block of each stage selected the token that a pixel lies in, (B, stages, height, width)."""
        count = len(batch.images)
        layers = []
        for stage in self._selecting:
            chosen = [found for found in self._model.backbone.last_selection if found.stage == stage]
            grid = chosen[0].grid
            marks = torch.zeros(len(chosen[0].indices), grid[0] * grid[1], device=self.device)
            for found in chosen:
                marks.scatter_(1, found.indices, 1.0)
            either = marks.view(count, -1, *grid).amax(dim=1, keepdim=True)
            stride = _STRIDES[stage]
            pixels = either.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
            pixels = pixels[:, :, : batch.images.shape[2], : batch.images.shape[3]]
            layers.append(F.interpolate(pixels, size=batch.size, mode="nearest-exact"))
        return torch.cat(layers, dim=1).cpu().numpy()


def _resize(values: Tensor, size: list[int], interpolation: str) -> Tensor:
    """Resize (B, C, H, W) as OpenCV does, which OpenMMLab's pipelines call."""
    if interpolation == "nearest":
        return F.interpolate(values, size=size, mode="nearest")
    return F.interpolate(values, size=size, mode=interpolation, align_corners=False)


def _selecting_stages(model: Any, card: ModelCard) -> tuple[int, ...]:
    ratios = getattr(model.backbone, "keep_ratios", ())
    stages = tuple(index for index, ratio in enumerate(ratios) if ratio is not None)
    if not stages:
        raise ModelFileError(
            f"model '{card.name}' selects no tokens, so there is no map of where it looked; leave the selection out"
        )
    return stages


def _without_unreported(model: Any, card: ModelCard) -> None:
    """Drop objects below the card's threshold before their masks are drawn, not after: none takes their place."""
    settings = getattr(getattr(model, "roi_head", None), "test_cfg", None)
    if settings is not None and "score_thr" in settings:
        just_below = np.nextafter(np.float32(card.score_threshold), np.float32(-1))
        settings.score_thr = max(settings.score_thr, float(just_below))


def _objects(model: Any, batch: _Batch, card: ModelCard) -> TileOutputs:
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo=meta) for meta in batch.metas()]
    found = [sample.pred_instances for sample in model.predict(batch.images, samples, rescale=True)]
    return TileOutputs(objects=[_reported(instances, card) for instances in found])


def _reported(instances: Any, card: ModelCard) -> TileObjects:
    keep = instances.scores >= card.score_threshold
    masks = instances.masks[keep].cpu().numpy().astype(bool) if card.task == "instance_segmentation" else None
    return TileObjects(
        instances.bboxes[keep].cpu().numpy().astype(np.float64),
        instances.scores[keep].cpu().numpy().astype(np.float64),
        instances.labels[keep].cpu().numpy().astype(np.int64),
        masks,
    )


def _class_maps(model: Any, batch: _Batch, card: ModelCard) -> TileOutputs:
    # Not model.predict, which slides a window of the training crop over the tile: tiling is the engine's.
    logits = model.encode_decode(batch.images, batch.metas())
    _require_finite(model, batch, logits)  # decode heads are not called as modules
    if tuple(logits.shape[2:]) != batch.size:
        logits = F.interpolate(logits, size=batch.size, mode="bilinear", align_corners=model.align_corners)
    if logits.shape[1] == 1:
        foreground = logits.sigmoid()
        scores = torch.cat([1 - foreground, foreground], dim=1)
    else:
        scores = logits.softmax(dim=1)
    return TileOutputs(maps={"scores": scores.float().cpu().numpy()})


def _class_vectors(model: Any, batch: _Batch, card: ModelCard) -> TileOutputs:
    scores = torch.stack([sample.pred_score for sample in model.predict(batch.images)])
    return TileOutputs(vectors=scores.float().cpu().numpy())


def _embeddings(model: Any, batch: _Batch, card: ModelCard) -> TileOutputs:
    return TileOutputs(embedding=spatial_mean(model.backbone(batch.images)).float().cpu().numpy())


_ANSWERS: dict[str, Callable[[Any, _Batch, ModelCard], TileOutputs]] = {
    "detection": _objects,
    "instance_segmentation": _objects,
    "segmentation": _class_maps,
    "change": _class_maps,
    "classification": _class_vectors,
    "embedding": _embeddings,
}
