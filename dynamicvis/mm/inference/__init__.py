"""Models for GeoTIFF inference, built from single-file models of any task."""

from __future__ import annotations

from pathlib import Path

import torch

from dynamicvis.mm.inference.building import build_backbone, build_model, check_fit, load_weights, quiet, silence
from dynamicvis.mm.inference.tile_model import OpenMMLabModel
from dynamicvis.model_card import read_card

__all__ = ["OpenMMLabModel", "load_tile_model"]


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
    check_fit(model, card, path)
    load_weights(model, path, "" if whole else "backbone.")
    return OpenMMLabModel(model.eval(), card, torch.device(device), selection=selection, embedding=not whole)
