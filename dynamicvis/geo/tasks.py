"""What each task makes of a scene: rasters while the tiles go by, files when all are done."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.assembly import Mosaic, write_rasters, write_rows
from dynamicvis.geo.engine import stored_bands, stored_objects, stored_vectors
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.layers import ClassLayer, Layer, ObjectLayer, ValueLayer
from dynamicvis.geo.merge import without_duplicates
from dynamicvis.geo.outputs import PREVIEW, QUICKLOOK, RASTER, Outputs
from dynamicvis.geo.polygons import class_polygons
from dynamicvis.geo.preview import write_preview
from dynamicvis.geo.products import RasterSpec
from dynamicvis.geo.quicklook import write_quicklook
from dynamicvis.geo.tiles import Grid, Tile, cell_grid, tile_grid
from dynamicvis.geo.vectors import Features, Place, box_features, check_place, write_vectors
from dynamicvis.geo.work import Work
from dynamicvis.model_card import ModelCard

NO_CLASS = 255  # of class rasters
_BATCH = 10_000  # features
_STRIDE = 32  # of the backbone's last map, pixels


@dataclass(frozen=True)
class Scenery:
    """A scene with all that its files need.

    Attributes:
        scene: what the model reads; a pair of scenes for change.
        ground: the scene of the pictures; the later one of a pair.
        before: the earlier one of a pair.
        card: of the model.
        grid: the tiles.
        outputs: which files, under the names that they have while they are made.
        layer: name of the layer of vector files.
        tags: provenance, for the rasters.
        creation_options: of GDAL's COG driver.
    """

    scene: Any
    ground: Any
    before: Any
    card: ModelCard
    grid: Grid
    outputs: Outputs
    layer: str
    tags: Mapping[str, str]
    creation_options: Mapping[str, str]

    @cached_property
    def place(self) -> Place:
        """Where it is on the map."""
        return Place(self.scene.crs, self.scene.affine, self.scene.path, (self.scene.height, self.scene.width))


class Task:
    """What a model gives for a scene, and the files made of it.

    Attributes:
        kind: what a feature of its vector files is.
        source: what its class probabilities are called among the model's answers.
        notes: sentences for the user about what `write` has written.
    """

    kind: str
    source: str

    def __init__(self, scenery: Scenery) -> None:
        self.scenery = scenery
        self.notes: list[str] = []

    @property
    def rasters(self) -> list[RasterSpec]:
        """Made of the model's maps."""
        return [self._selection()] if self.scenery.outputs.selection else []

    @property
    def written(self) -> list[RasterSpec]:
        """All rasters that become files."""
        return self.rasters

    def check(self) -> None:
        """Refuse a scene that lies where its files cannot hold it, before any work.

        Raises:
            GeoError: as above.
        """
        if self.scenery.scene.crs is not None:
            check_place(self.scenery.place, self.scenery.outputs.vectors)

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        """Write all files into a folder, once every tile is done; returns the number of features by class."""
        raise NotImplementedError

    def bytes_per_pixel(self) -> tuple[float, float]:
        """Of the rasters it writes, and of the unfinished work on the disk."""
        grid = self.scenery.grid
        shares = sum(2 * (end - start) for start, end in grid.rows.seams) / grid.height
        kinds = {"scores": len(self.scenery.card.classes), "selection": 4}
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

    def _write_maps(self, work: Work, targets: Mapping[Path, RasterSpec]) -> dict[str, NDArray[np.int64]]:
        scenery = self.scenery
        if not targets:
            return {}
        return write_rasters(
            Mosaic(scenery.grid, self.rasters, stored_bands(scenery.grid, work)),
            scenery.grid,
            targets,
            {"crs": scenery.scene.crs, "transform": scenery.scene.affine} if scenery.scene.crs else {},
            scratch=work.folder,
            creation_options=scenery.creation_options,
        )

    def _selection_target(self, staging: Path) -> dict[Path, RasterSpec]:
        outputs = self.scenery.outputs
        return {staging / outputs.selection_name: self._selection()} if outputs.selection else {}

    def _write_vectors(self, path: Path, batches: Iterable[Features], *, multi: bool = False) -> None:
        scenery = self.scenery
        classes = scenery.card.classes or ("",)
        write_vectors(path, batches, scenery.place, classes, multi=multi, layer=scenery.layer, notes=self.notes)

    def _write_pictures(self, staging: Path, layer: Layer) -> None:
        scenery, outputs = self.scenery, self.scenery.outputs
        if QUICKLOOK in outputs.suffixes:
            write_quicklook(staging / outputs.name(QUICKLOOK), scenery.ground, scenery.card, layer)
        if PREVIEW in outputs.suffixes:
            layers = [layer]
            if outputs.selection:
                layers.append(ValueLayer(staging / outputs.selection_name, "selection, percent", highest=100))
            path = staging / outputs.name(PREVIEW)
            write_preview(path, scenery.ground, scenery.card, layers, before=scenery.before)

    def _classes(self) -> RasterSpec:
        return RasterSpec(
            name="classes",
            source=self.source,
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
            source=self.source,
            dtype="float32",
            nodata=float("nan"),
            convert=lambda block: block,
            descriptions=self.scenery.card.classes,
            tags=self._class_tags(),
        )

    def _class_tags(self) -> dict[str, str]:
        return {**self.scenery.tags, "DYNAMICVIS_CLASSES": json.dumps(self.scenery.card.classes)}

    def _colormap(self) -> dict[int, tuple[int, int, int, int]]:
        rgb = [tuple(int(color[at : at + 2], 16) for at in (1, 3, 5)) for color in self.scenery.card.colors]
        return {index: (red, green, blue, 255) for index, (red, green, blue) in enumerate(rgb)}

    def _named(self, counts: Counter[int]) -> dict[str, int]:
        return {self.scenery.card.classes[label]: count for label, count in counts.most_common()}


class Objects(Task):
    """Detection and instance segmentation."""

    kind, source = "object", "objects"

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        scenery, outputs = self.scenery, self.scenery.outputs
        self._write_maps(work, self._selection_target(staging))
        kept = without_duplicates(list(stored_objects(scenery.grid, work)), stride=scenery.grid.stride)
        masked = scenery.card.task == "instance_segmentation"
        features = box_features(kept.boxes, kept.scores, kept.labels)
        if kept.polygons is not None:
            features = Features(kept.polygons, kept.labels, kept.scores)
        batches = [_part(features, start) for start in range(0, len(features), _BATCH)]
        for suffix in outputs.vectors:
            self._write_vectors(staging / outputs.name(suffix), batches, multi=masked)
        self._write_pictures(staging, ObjectLayer(batches, filled=masked))
        return self._named(Counter(kept.labels.tolist()))


class ClassMap(Task):
    """Segmentation and change: a class for every pixel, and polygons of the classes."""

    kind, source = "polygon", "scores"

    @property
    def rasters(self) -> list[RasterSpec]:
        rasters = [self._classes(), *super().rasters]
        if self.scenery.outputs.vectors:
            rasters.append(self._confidence())
        if self.scenery.outputs.scores:
            rasters.append(self._scores())
        return rasters

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        outputs, card = self.scenery.outputs, self.scenery.card
        folder = staging if RASTER in outputs.suffixes else work.folder
        classes, confidence = folder / outputs.name(RASTER), work.folder / f"{outputs.stem}-confidence.tif"
        targets = {classes: self._classes(), **self._selection_target(staging)}
        if outputs.vectors:
            targets[confidence] = self._confidence()
        if outputs.scores:
            targets[staging / outputs.scores_name] = self._scores()
        pixels = self._write_maps(work, targets)["classes"]
        polygons = _Regions(classes, confidence, set() if card.background is None else {card.background})
        for suffix in outputs.vectors:
            self._write_vectors(staging / outputs.name(suffix), polygons)
        hidden = () if card.background is None else (card.background,)
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


class Cells(Task):
    """One vector a cell: classes of a scene classifier, or embeddings."""

    kind, source = "cell", "vectors"

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        scenery, outputs = self.scenery, self.scenery.outputs
        self._write_maps(work, self._selection_target(staging))
        folder = staging if RASTER in outputs.suffixes else work.folder
        raster = folder / outputs.name(RASTER)
        self._write_cells(work, raster, self._main())
        if outputs.scores:
            self._write_cells(work, staging / outputs.scores_name, self._scores())
        features = _CellFeatures(scenery.grid, work, embedding=self._is_embedding)
        for suffix in outputs.vectors:
            self._write_vectors(staging / outputs.name(suffix), features)
        self._write_pictures(staging, self._layer(raster))
        counts: Counter[int] = Counter()
        if not self._is_embedding:
            for batch in features:
                counts.update(batch.labels.tolist())
        return self._named(counts)

    @property
    def written(self) -> list[RasterSpec]:
        return [*self.rasters, self._main()]

    @property
    def _is_embedding(self) -> bool:
        return self.scenery.card.task == "embedding"

    def _layer(self, raster: Path) -> Layer:
        cell = float(self.scenery.grid.tile)
        if self._is_embedding:
            return ValueLayer(raster, "embedding", "components", cell)
        return ClassLayer(raster, cell=cell)

    def _main(self) -> RasterSpec:
        if self._is_embedding:
            return RasterSpec(
                name="embedding",
                source="vectors",
                dtype="float32",
                nodata=float("nan"),
                convert=lambda block: block,
                tags=self.scenery.tags,
            )
        return self._classes()

    def _write_cells(self, work: Work, path: Path, spec: RasterSpec) -> None:
        scene, grid = self.scenery.scene, self.scenery.grid
        place = {}
        if scene.crs:
            place = {"crs": scene.crs, "transform": scene.affine @ scene.affine.scale(grid.tile)}
        write_rows(
            path,
            spec,
            ([(tile.column, vector) for tile, vector in row] for row in _rows(grid, work)),
            place,
            shape=(len(grid.rows.starts), len(grid.columns.starts)),
            scratch=work.folder,
            creation_options=self.scenery.creation_options,
        )


def make_task(scenery: Scenery) -> Task:
    """The task of a scenery's card.

    Raises:
        GeoError: more classes than a class raster can hold.
    """
    card = scenery.card
    if card.task in ("segmentation", "change", "classification") and len(card.classes) > NO_CLASS:
        raise GeoError(f"model '{card.name}' has {len(card.classes)} classes; a raster of classes holds {NO_CLASS}")
    kinds = {
        "detection": Objects,
        "instance_segmentation": Objects,
        "segmentation": ClassMap,
        "change": ClassMap,
        "classification": Cells,
        "embedding": Cells,
    }
    return kinds[scenery.card.task](scenery)


def make_grid(card: ModelCard, height: int, width: int, tile: int, overlap: int) -> Grid:
    """Overlapping tiles, or cells for tasks that give one answer a tile."""
    if card.task in ("classification", "embedding"):
        return cell_grid(height, width, tile)
    return tile_grid(height, width, tile, overlap, _STRIDE)


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


class _CellFeatures:
    """The cells that have data, a row at a time."""

    def __init__(self, grid: Grid, work: Work, *, embedding: bool) -> None:
        self._grid, self._work, self._embedding = grid, work, embedding

    def __iter__(self) -> Iterator[Features]:
        for row in _rows(self._grid, self._work):
            if not row:
                continue
            boxes = np.array([tile.core for tile, _ in row], np.float64)
            vectors = np.stack([vector for _, vector in row])
            if self._embedding:
                unknown = np.zeros(len(row), np.int64)
                cells = box_features(boxes, np.full(len(row), np.nan), unknown)
                yield Features(cells.polygons, cells.labels, cells.scores, {"embedding": vectors})
            else:
                yield box_features(boxes, vectors.max(axis=1).astype(np.float64), vectors.argmax(axis=1))


def _rows(grid: Grid, work: Work) -> Iterator[list[tuple[Tile, NDArray[np.float32]]]]:
    """The cells with data of each row, one after the other."""
    row: list[tuple[Tile, NDArray[np.float32]]] = []
    at = 0
    for tile, vector in stored_vectors(grid, work):
        while at < tile.row:
            yield row
            row, at = [], at + 1
        row.append((tile, vector))
    while at < len(grid.rows.starts):
        yield row
        row, at = [], at + 1


def _part(features: Features, start: int) -> Features:
    end = start + _BATCH
    return Features(features.polygons[start:end], features.labels[start:end], features.scores[start:end])
