"""What a model gives for a batch of tiles, and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicvis.model_card import ModelCard


@dataclass(frozen=True)
class TileObjects:
    """Objects of one tile.

    Attributes:
        boxes: (n, 4) left, top, right, bottom in pixels of the tile, float64.
        scores: (n,) 0 to 1, float64.
        labels: (n,) indices into the card's classes, int64.
        masks: (n, height, width) the pixels of each object, bool; None where the model gives boxes alone.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class TileOutputs:
    """Results of a batch of B tiles.

    Attributes:
        maps: (B, K, height, width) float32 at the tiles' pixels by name: ``"scores"``, the probability of each class;
            ``"selection"``, 0 to 1 for each stage of the backbone that selects tokens; ``"values"``, of `map_raster`.
        objects: one entry a tile, or None.
        vectors: (B, D) float32, one a tile, or None: probabilities of a scene's classes, or an embedding.
    """

    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    objects: Sequence[TileObjects] | None = None
    vectors: NDArray[np.float32] | None = None


class TileModel(Protocol):
    """A model with its card."""

    card: ModelCard

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Results for tiles (B, bands, height, width) in raster units, NoData filled with the card's means."""
        ...
