"""What the products of models with a card have in common."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.file_names import PREVIEW, QUICKLOOK, RASTER, Outputs
from dynamicvis.geo.output.vectors import Features, check_georeference, write_vectors
from dynamicvis.geo.pictures.layers import Ground, Layer, ValueLayer
from dynamicvis.geo.pictures.preview import write_preview
from dynamicvis.geo.pictures.quicklook import write_quicklook
from dynamicvis.geo.products.product import Product
from dynamicvis.geo.scene.georeference import Georeference
from dynamicvis.geo.stitching.grid import Grid, tile_grid
from dynamicvis.geo.stitching.raster_spec import NO_CLASS, RasterSpec
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileOutputs


@dataclass(frozen=True)
class Scenery:
    """A scene with all that its files need.

    Attributes:
        scene: what the model reads; a pair of scenes for change.
        ground: the scene of the pictures; the later one of a pair.
        before: the earlier one of a pair.
        grid: the tiles.
        outputs: which files, under the names that they have while they are made.
        layer: name of the layer of vector files.
        tags: provenance, for the rasters.
        creation_options: of GDAL's COG driver.
    """

    scene: Any
    ground: Ground
    before: Ground | None
    grid: Grid
    outputs: Outputs
    layer: str
    tags: Mapping[str, str]
    creation_options: Mapping[str, str]

    @cached_property
    def georeference(self) -> Georeference:
        """Where it is on the map."""
        return Georeference(self.scene.crs, self.scene.affine, self.scene.path, (self.scene.height, self.scene.width))


class ModelProduct(Product):
    """What a model with a card gives for a scene, and the files made of it; a subclass for each family of tasks.

    Attributes:
        tasks: those of the family.
        formats: suffixes of the files in a folder, by default.
        card: of the model.
        scenery: the scene and what its files need.
    """

    tasks: ClassVar[tuple[str, ...]]
    formats: ClassVar[tuple[str, ...]] = (RASTER, ".gpkg", QUICKLOOK)
    # What its class probabilities are called among the model's answers.
    _source: ClassVar[str]

    def __init__(self, card: ModelCard, scenery: Scenery) -> None:
        scene = scenery.scene
        profile = {"crs": scene.crs, "transform": scene.affine} if scene.crs else {}
        super().__init__(scenery.grid, profile, scenery.creation_options, card.score_threshold)
        self.card, self.scenery = card, scenery

    @classmethod
    def check_outputs(cls, card: ModelCard, outputs: Outputs) -> None:
        """Refuse files that a model of this card cannot give.

        Raises:
            GeoError: a format or further raster that does not fit its task, or more classes than a raster can hold.
        """
        if len(card.classes) > NO_CLASS:
            raise GeoError(f"model '{card.name}' has {len(card.classes)} classes; a raster of classes holds {NO_CLASS}")

    @classmethod
    def make_grid(cls, card: ModelCard, height: int, width: int, tile: int, overlap: int) -> Grid:
        """The tiles of a raster, sizes in pixels."""
        return tile_grid(height, width, tile, overlap, card.stride)

    @classmethod
    @abstractmethod
    def check_answer(cls, card: ModelCard, outputs: TileOutputs) -> None:
        """Refuse an answer that does not fit the card of the model that gave it.

        Raises:
            ValueError: what the card's task gives is missing, or of other classes than the card's.
        """

    @property
    def options(self) -> Mapping[str, Any]:
        return {"card": hashlib.sha256(repr(asdict(self.card)).encode()).hexdigest()}

    @property
    def rasters(self) -> list[RasterSpec]:
        return [self._selection()] if self.scenery.outputs.selection else []

    def answer(self, given: TileOutputs, shape: tuple[int, ...]) -> TileOutputs:
        self.check_answer(self.card, given)
        return given

    def check(self) -> None:
        if self.scenery.scene.crs is not None:
            check_georeference(self.scenery.georeference, self.scenery.outputs.vectors)
        super().check()

    def bytes_per_pixel(self) -> tuple[float, float]:
        """Of the rasters it writes, and of the unfinished work on the disk."""
        shares = sum(2 * (end - start) for start, end in self.grid.rows.seams) / self.grid.height
        kinds = {"scores": len(self.card.classes), "selection": 4}
        channels = sum(kinds[source] for source in {spec.source for spec in self.rasters})
        sizes = {
            spec.name: np.dtype(spec.dtype).itemsize * (kinds[spec.source] if spec.name in kinds else 1)
            for spec in self.rasters
        }
        kept = sum(sizes.values()) + (1 if sizes else 0)
        published = sum(size for name, size in sizes.items() if name != "confidence")
        return published, kept + 4 * channels * shares

    def _selection(self) -> RasterSpec:
        return RasterSpec(
            name="selection",
            source="selection",
            dtype="uint8",
            nodata=NO_CLASS,
            convert=lambda block: block * 100,
            resampling="average",
            tags={
                **self.scenery.tags,
                "DYNAMICVIS_UNIT": "percent of the tiles that looked here, a band for each stage",
            },
        )

    def _selection_target(self, staging: Path) -> dict[Path, RasterSpec]:
        outputs = self.scenery.outputs
        return {staging / outputs.selection_name: self._selection()} if outputs.selection else {}

    def _classes(self) -> RasterSpec:
        return RasterSpec(
            name="classes",
            source=self._source,
            dtype="uint8",
            nodata=NO_CLASS,
            convert=lambda block: block.argmax(axis=0)[None],
            resampling="mode",
            descriptions=["class"],
            colormap=self._colormap(),
            tags=self._class_tags(),
        )

    def _scores(self) -> RasterSpec:
        return RasterSpec(
            name="scores",
            source=self._source,
            dtype="float32",
            nodata=float("nan"),
            convert=lambda block: block,
            descriptions=self.card.classes,
            tags=self._class_tags(),
        )

    def _class_tags(self) -> dict[str, str]:
        return {**self.scenery.tags, "DYNAMICVIS_CLASSES": json.dumps(self.card.classes)}

    def _colormap(self) -> dict[int, tuple[int, int, int, int]]:
        rgb = [tuple(int(color[at : at + 2], 16) for at in (1, 3, 5)) for color in self.card.colors]
        return {index: (red, green, blue, 255) for index, (red, green, blue) in enumerate(rgb)}

    def _write_vectors(self, staging: Path, features: Iterable[Features], *, multi: bool = False) -> None:
        """Write features to every vector file that is wanted."""
        scenery = self.scenery
        classes = self.card.classes or ("",)
        for suffix in scenery.outputs.vectors:
            path = staging / scenery.outputs.name(suffix)
            write_vectors(
                path, features, scenery.georeference, classes, multi=multi, layer=scenery.layer, notes=self.notes
            )

    def _write_pictures(self, staging: Path, layer: Layer) -> None:
        scenery, outputs = self.scenery, self.scenery.outputs
        if QUICKLOOK in outputs.suffixes:
            write_quicklook(staging / outputs.name(QUICKLOOK), scenery.ground, self.card, layer)
        if PREVIEW in outputs.suffixes:
            layers: list[Layer] = [layer]
            if outputs.selection:
                layers.append(ValueLayer(staging / outputs.selection_name, "selection, percent", highest=100))
            path = staging / outputs.name(PREVIEW)
            write_preview(path, scenery.ground, self.card, layers, before=scenery.before)

    def _named(self, counts: Counter[int]) -> dict[str, int]:
        return {self.card.classes[label]: count for label, count in counts.most_common()}


def refuse_scores(card: ModelCard, outputs: Outputs) -> None:
    """Refuse a raster of class probabilities.

    Raises:
        GeoError: it is asked for.
    """
    if outputs.scores:
        raise GeoError(f"a model for {card.task_name} has no scores of classes; leave --scores out")


def refuse_formats(outputs: Outputs, suffixes: Sequence[str], reason: str) -> None:
    """Refuse formats that cannot hold what a model gives.

    Raises:
        GeoError: one of them is asked for; the reason, with the suffix in the place of ``{}``.
    """
    for suffix in outputs.suffixes:
        if suffix in suffixes:
            raise GeoError(reason.format(suffix))
