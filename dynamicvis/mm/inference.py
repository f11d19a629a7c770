"""Detectors for GeoTIFF inference, built from single-file models."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicvis.model_card import ModelCard, ModelFileError, read_card, read_weights

Detections = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


class Detector:
    """An OpenMMLab detector with its model card.

    Attributes:
        card: the model card.
        device: where it runs.
    """

    def __init__(self, model: Any, card: ModelCard, device: torch.device) -> None:
        self.card = card
        self.device = device
        self._model = model
        self._mean = torch.tensor(card.mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(card.std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, images: NDArray[np.float32]) -> list[Detections]:
        """Detect objects in a batch of windows.

        Args:
            images: (B, C, H, W) in raster units, bands in the order of ``card.bands``.

        Returns:
            For every window: boxes (N, 4) xyxy in pixels of the window, scores (N,) of at least
            ``card.score_threshold``, best first, and labels (N,) as indices into ``card.classes``.

        Raises:
            ValueError: ``images`` has another shape or number of bands.
        """
        from mmdet.structures import DetDataSample

        if images.ndim != 4 or images.shape[1] != len(self.card.bands):
            raise ValueError(
                f"model '{self.card.name}' takes windows of {len(self.card.bands)} bands as (B, C, H, W), "
                f"got an array of shape {images.shape}"
            )
        size = images.shape[2:]
        samples = [DetDataSample(metainfo={"img_shape": size, "ori_shape": size}) for _ in images]
        with torch.inference_mode():
            inputs = (torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)) - self._mean) / self._std
            results = self._model.predict(inputs.to(self.device), samples, rescale=False)
        return [self._above_threshold(result.pred_instances) for result in results]

    def _above_threshold(self, instances: Any) -> Detections:
        keep = instances.scores >= self.card.score_threshold
        return (
            instances.bboxes[keep].cpu().numpy().astype(np.float64),
            instances.scores[keep].cpu().numpy().astype(np.float64),
            instances.labels[keep].cpu().numpy().astype(np.int64),
        )


def load_detector(path: str | Path, device: str = "cpu") -> Detector:
    """Load a single-file detection model for inference.

    Args:
        path: model file with a card of task ``"detection"``.
        device: one that torch has here and the kernels run on, as `dynamicvis.geo.load_model` checks.

    Raises:
        ModelFileError: the file cannot be used, or its weights do not fit the architecture its card describes.
    """
    card = read_card(path)
    if card.task != "detection":
        raise ModelFileError(f"{path} is a model for {card.task}, not for detection; choose another model")
    target = torch.device(device)
    weights = read_weights(path)
    with _quiet():
        model = _build(card, path)
    _check_weights(weights, model.state_dict(), path)
    model.load_state_dict(weights)
    return Detector(model.to(target).eval(), card, target)


def _build(card: ModelCard, path: str | Path) -> Any:
    import dynamicvis.mm  # noqa: F401 - registers the backbone and provides mmcv.ops

    with _without_mmpretrain():
        import mmdet.models  # noqa: F401
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    # mmdet's anchor points make torch warn about meshgrid, once per process: here, where it is not shown.
    torch.meshgrid(torch.zeros(1), torch.zeros(1))
    try:
        with DefaultScope.overwrite_default_scope("mmdet"):
            return MODELS.build(ConfigDict(card.config))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(
            f"{path} describes an architecture that this version cannot build ({reason}); export the model again"
        ) from error


def _check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    reshaped = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if not (missing or unexpected or reshaped):
        return
    counts = f"{len(missing)} tensors missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape"
    example = (missing or unexpected or sorted(reshaped))[0]
    raise ModelFileError(
        f"{path} holds weights of another architecture than its model card describes ({counts}, such as {example}); "
        "export it again with the config that it was trained with"
    )


@contextlib.contextmanager
def _without_mmpretrain() -> Iterator[None]:
    """Hide mmpretrain, which mmdet imports for re-identification alone: more than a second of start-up."""
    hidden = "mmpretrain" not in sys.modules
    if hidden:
        sys.modules["mmpretrain"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mmpretrain"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines or prints of the OpenMMLab packages while they are imported and built."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
