"""Models for GeoTIFF inference, built from single-file models of any task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicvis.mm.inference.building import build_backbone, build_model, load_weights, quiet, silence
from dynamicvis.mm.inference.tile_model import OpenMMLabModel
from dynamicvis.model_card import ModelFileError, read_card

__all__ = ["OpenMMLabModel", "load_detector", "load_tile_model"]


def load_tile_model(
    path: str | Path, device: str = "cpu", *, selection: bool = False, embedding: bool = False
) -> OpenMMLabModel:
    """Load a single-file model for inference.

    Args:
        path: model file with a card of any task.
        device: one that torch has here and the kernels run on, as `dynamicvis.geo.load_model` checks.
        selection, embedding: as for `dynamicvis.geo.load_model`.

    Raises:
        ModelFileError: the file cannot be used, its weights do not fit the architecture its card describes, or
            ``selection`` is asked of a model that selects no tokens.
    """
    card = read_card(path)
    whole = not embedding and card.task != "embedding"
    with quiet():
        model = build_model(card, path) if whole else build_backbone(card, path)
    silence()
    load_weights(model, path, "" if whole else "backbone.")
    return OpenMMLabModel(model.eval(), card, torch.device(device), selection=selection, embedding=not whole)


def load_detector(path: str | Path, device: str = "cpu") -> Any:
    """A detection model as `dynamicvis.geo.detect_objects` calls it: boxes, scores and labels of every tile.

    Raises:
        ModelFileError: as `load_tile_model`, or the model is for another task.
    """
    card = read_card(path)
    if card.task != "detection":
        raise ModelFileError(f"{path} is a model for {card.task}, not for detection; choose another model")
    model = load_tile_model(path, device)

    def detect(images: NDArray[np.float32]) -> list[tuple[Any, Any, Any]]:
        return [(found.boxes, found.scores, found.labels) for found in model(images).objects or ()]

    return detect
