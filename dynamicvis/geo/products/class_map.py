"""Class maps: segmentation and change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from dynamicvis.geo.output.file_names import RASTER
from dynamicvis.geo.output.vectors import Features
from dynamicvis.geo.pictures.layers import ClassLayer
from dynamicvis.geo.products.of_model import ModelProduct
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.stitching.polygons import class_polygons
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileOutputs


class ClassMap(ModelProduct):
    """A class for every pixel, and polygons of the classes."""

    kind: ClassVar[str] = "polygon"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "change")
    _source: ClassVar[str] = "scores"

    @classmethod
    def check_answer(cls, card: ModelCard, outputs: TileOutputs) -> None:
        scores = outputs.maps.get("scores")
        if scores is None or scores.ndim != 4 or scores.shape[1] != len(card.classes):
            shape = "none" if scores is None else scores.shape
            raise ValueError(
                f"model '{card.name}' gave scores of shape {shape} for the card's {len(card.classes)} classes"
            )

    @property
    def rasters(self) -> list[RasterSpec]:
        rasters = [self._classes(), *super().rasters]
        if self.scenery.outputs.vectors:
            rasters.append(self._confidence())
        if self.scenery.outputs.scores:
            rasters.append(self._scores())
        return rasters

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        outputs, card = self.scenery.outputs, self.card
        folder = staging if RASTER in outputs.suffixes else work.folder
        classes, confidence = folder / outputs.name(RASTER), work.folder / f"{outputs.stem}-confidence.tif"
        targets = {classes: self._classes(), **self._selection_target(staging)}
        if outputs.vectors:
            targets[confidence] = self._confidence()
        if outputs.scores:
            targets[staging / outputs.scores_name] = self._scores()
        pixels = self._write_maps(work, targets)["classes"]
        hidden = () if card.background is None else (card.background,)
        polygons = _Regions(classes, confidence, set(hidden))
        self._write_vectors(staging, polygons)
        self._write_pictures(staging, ClassLayer(classes, hidden, pixels[: len(card.classes)].tolist()))
        return self._named(polygons.counts) if outputs.vectors else {}

    def _confidence(self) -> RasterSpec:
        return RasterSpec(
            name="confidence",
            source="scores",
            dtype="uint8",
            nodata=None,
            convert=lambda block: block.max(axis=0)[None] * 255,
            resampling=None,
        )


class _Regions:
    """Polygons of a class raster, made anew each time they are gone through.

    Attributes:
        counts: number of polygons of each class, of the last time.
    """

    def __init__(self, classes: Path, confidence: Path, skip: set[int]) -> None:
        self._make = partial(class_polygons, classes, confidence, skip=skip)
        self.counts: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Features]:
        self.counts = Counter()
        for batch in self._make():
            self.counts.update(batch.labels.tolist())
            yield batch
