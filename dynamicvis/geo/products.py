"""What goes into and comes out of a model, tile by tile; no torch in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
        vectors: (B, D) float32, one a tile: class probabilities of a scene classifier, or an embedding.
    """

    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    objects: Sequence[TileObjects] | None = None
    vectors: NDArray[np.float32] | None = None


# (B, bands, height, width) float32 in raster units, NoData filled with the card's means
Predictor = Callable[[NDArray[np.float32]], TileOutputs]


class TileModel(Protocol):
    """A model for tiles, with its card; for change detection the bands of the first date come before the second's."""

    card: ModelCard

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Predict a batch (B, bands, height, width) of tiles in raster units."""


def check_outputs(outputs: TileOutputs, card: ModelCard) -> None:
    """Refuse an answer that does not fit the card of the model that gave it.

    Raises:
        ValueError: what the card's task gives is missing, or of other classes than the card's.
    """
    classes = len(card.classes)
    if card.task in ("detection", "instance_segmentation"):
        if outputs.objects is None:
            raise ValueError(f"model '{card.name}' for {card.task} gave no objects")
        for found in outputs.objects:
            labels = np.asarray(found.labels)
            if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
                raise ValueError(f"model '{card.name}' gave labels outside of the card's {classes} classes")
            if card.task == "instance_segmentation" and found.masks is None:
                raise ValueError(f"model '{card.name}' for {card.task} gave objects without masks")
    elif card.task in ("segmentation", "change"):
        scores = outputs.maps.get("scores")
        if scores is None or scores.ndim != 4 or scores.shape[1] != classes:
            shape = "none" if scores is None else scores.shape
            raise ValueError(f"model '{card.name}' gave scores of shape {shape} for the card's {classes} classes")
    else:
        vectors = outputs.vectors
        if vectors is None or vectors.ndim != 2 or (card.task == "classification" and vectors.shape[1] != classes):
            shape = "none" if vectors is None else vectors.shape
            raise ValueError(f"model '{card.name}' gave vectors of shape {shape} for the card's {classes} classes")


@dataclass(frozen=True)
class RasterSpec:
    """One raster made from a blended map.

    Attributes:
        name: what it is called among the rasters of a run.
        source: key of the map in `TileOutputs.maps`.
        dtype: numpy name of its type.
        nodata: value of pixels without data; None keeps them in an internal mask.
        convert: (K, height, width) float32 to (bands, height, width); the engine casts to ``dtype``, rounding and
            clipping to its range where that is an integer type.
        resampling: how overviews are made: ``"mode"`` for classes, ``"average"`` for quantities. None for a raster that
            nobody else reads, and that is not made cloud-optimised.
        descriptions: names of the bands, or none.
        scales, offsets, units: what the numbers of the bands stand for, number x scale + offset, or none.
        colormap: colours (red, green, blue, alpha), 0 to 255, of the values of a single band of bytes.
        tags: dataset metadata.
    """

    name: str
    source: str
    dtype: str
    nodata: float | None
    convert: Callable[[NDArray[np.float32]], NDArray[Any]]
    resampling: Literal["mode", "average", "nearest"] | None = "average"
    descriptions: Sequence[str] = ()
    scales: Sequence[float] = ()
    offsets: Sequence[float] = ()
    units: Sequence[str | None] = ()
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
