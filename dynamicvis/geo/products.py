"""What is made of the answers of a model for tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileObjects, TileOutputs


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
            _check_objects(found, card)
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


def _check_objects(found: TileObjects, card: ModelCard) -> None:
    labels = np.asarray(found.labels)
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(card.classes)):
        raise ValueError(f"model '{card.name}' gave labels outside of the card's {len(card.classes)} classes")
    if card.task == "instance_segmentation" and found.masks is None:
        raise ValueError(f"model '{card.name}' for {card.task} gave objects without masks")


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
