"""Objects: detection and instance segmentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from dynamicvis.geo.output.file_names import QUICKLOOK, RASTER, Outputs
from dynamicvis.geo.output.vectors import Features, box_features
from dynamicvis.geo.pictures.layers import ObjectLayer
from dynamicvis.geo.products.of_model import ModelProduct, refuse_formats, refuse_scores
from dynamicvis.geo.runs.engine import full_tiles, stored_objects
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.stitching.merge import without_duplicates
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileOutputs

_BATCH = 10_000  # features


class Objects(ModelProduct):
    """Boxes, or outlines where the model gives masks."""

    kind: ClassVar[str] = "object"
    tasks: ClassVar[tuple[str, ...]] = ("detection", "instance_segmentation")
    formats: ClassVar[tuple[str, ...]] = (".gpkg", ".geojson", QUICKLOOK)
    _source: ClassVar[str] = "objects"

    @classmethod
    def check_outputs(cls, card: ModelCard, outputs: Outputs) -> None:
        reason = f"a model for {card.task_name} gives objects and no raster; choose a vector format"
        refuse_formats(outputs, [RASTER], reason)
        refuse_scores(card, outputs)

    @classmethod
    def check_answer(cls, card: ModelCard, outputs: TileOutputs) -> None:
        if outputs.objects is None:
            raise ValueError(f"model '{card.name}' for {card.task} gave no objects")
        for found in outputs.objects:
            labels = np.asarray(found.labels)
            if len(labels) and not (labels.min() >= 0 and labels.max() < len(card.classes)):
                raise ValueError(f"model '{card.name}' gave labels outside of the card's {len(card.classes)} classes")
            if card.has_masks and found.masks is None:
                raise ValueError(f"model '{card.name}' for {card.task} gave objects without masks")

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        self.notes += self._capped(work)
        self._write_maps(work, self._selection_target(staging))
        kept = without_duplicates(list(stored_objects(self.grid, work)), stride=self.grid.stride)
        features = box_features(kept.boxes, kept.scores, kept.labels)
        if kept.polygons is not None:
            features = Features(kept.polygons, kept.labels, kept.scores)
        batches = [_part(features, start) for start in range(0, len(features), _BATCH)]
        self._write_vectors(staging, batches, multi=self.card.has_masks)
        self._write_pictures(staging, ObjectLayer(batches, filled=self.card.has_masks))
        return self._named(Counter(kept.labels.tolist()))

    def _capped(self, work: Work) -> Iterator[str]:
        """A sentence on tiles that gave as many objects as the model gives at most."""
        full, most = full_tiles(self.grid, work)
        if full:
            size = self.grid.tile
            yield (
                f"{full} of the tiles of {self.scenery.scene.path} gave {most} objects, the most that model "
                f"'{self.card.name}' gives for {size} x {size} pixels, so more may be there: look again with "
                f"--tile {max(min(size, self.card.tile) // 2, 1)}"
            )


def _part(features: Features, start: int) -> Features:
    end = start + _BATCH
    return Features(features.polygons[start:end], features.labels[start:end], features.scores[start:end])
