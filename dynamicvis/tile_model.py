"""The contract between the engine for scenes and whatever computes: what goes into a model and comes out, tile by tile.

Both sides import this module and neither the other one; there is no torch in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        masks: (n, height, width) bool over the whole tile, for instance segmentation.
        most: the most objects that the model gives for a tile, whatever is in it; None where there is no such number.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None = None
    most: int | None = None


@dataclass(frozen=True)
class TileOutputs:
    """What a model gives for a batch of B tiles; a part that it does not make is left out.

    Attributes:
        maps: (B, K, height, width) float32 by name, blended between tiles: ``"scores"`` are class probabilities,
            ``"selection"`` is 1 where a stage of the backbone kept the pixel's token, one channel a stage.
        objects: one entry a tile.
        vectors: (B, classes) float32, class probabilities of a scene classifier.
        embedding: (B, D) float32, one vector a tile.
    """

    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    objects: Sequence[TileObjects] | None = None
    vectors: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Class probabilities: (B, classes, height, width) for pixels, (B, classes) for scenes, None for objects and
        embeddings.
        """
        return self.maps.get("scores", self.vectors)


# (B, bands, height, width) float32 in raster units, NoData filled with the card's means
Predictor = Callable[[NDArray[np.float32]], TileOutputs]


class TileModel(Protocol):
    """A model for tiles, with its card; for change detection the bands of the first date come before the second's."""

    card: ModelCard

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Predict a batch (B, bands, height, width) of tiles in raster units."""
