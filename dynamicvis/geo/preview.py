"""A page that shows a scene and what was found on it, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamicvis.geo.layers import Ground, Layer
from dynamicvis.model_card import ModelCard


def write_preview(
    path: str | Path, scene: Ground, card: ModelCard, layers: Sequence[Layer], *, before: Ground | None = None
) -> None:
    """To come."""
    raise NotImplementedError
