"""Cells: one vector for every tile, the classes of a scene classifier or an embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.output.file_names import QUICKLOOK, RASTER, Outputs
from dynamicvis.geo.output.vectors import VECTOR_SUFFIXES, Features, box_features
from dynamicvis.geo.pictures.layers import ClassLayer, Layer, ValueLayer
from dynamicvis.geo.products.of_model import ModelProduct, refuse_formats, refuse_scores
from dynamicvis.geo.runs.engine import stored_vectors
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.stitching.assembly import write_rows
from dynamicvis.geo.stitching.grid import Grid, Tile, cell_grid
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileOutputs

Row = list[tuple[Tile, NDArray[np.float32]]]


class Cells(ModelProduct):
    """A raster of one pixel for every cell, and the cells as squares."""

    kind: ClassVar[str] = "cell"
    _source: ClassVar[str] = "vectors"

    @classmethod
    def make_grid(cls, card: ModelCard, height: int, width: int, tile: int, overlap: int) -> Grid:
        return cell_grid(height, width, tile)

    def write(self, work: Work, staging: Path) -> dict[str, int]:
        outputs = self.scenery.outputs
        self._write_maps(work, self._selection_target(staging))
        raster = (staging if RASTER in outputs.suffixes else work.folder) / outputs.name(RASTER)
        self._write_cells(work, raster, self._main())
        if outputs.scores:
            self._write_cells(work, staging / outputs.scores_name, self._scores())
        self._write_vectors(staging, _Again(self, work))
        self._write_pictures(staging, self._layer(raster))
        return self._named(self._counts(work))

    @property
    def written(self) -> list[RasterSpec]:
        return [*self.rasters, self._main()]

    def features(self, work: Work) -> Iterator[Features]:
        """The cells that have data, a row at a time."""
        for row in _rows(self.grid, work):
            if row:
                boxes = np.array([tile.core for tile, _ in row], np.float64)
                yield self._features(boxes, np.stack([vector for _, vector in row]))

    @abstractmethod
    def _main(self) -> RasterSpec:
        """The raster that is always written."""

    @abstractmethod
    def _layer(self, raster: Path) -> Layer:
        """What pictures show of it."""

    @abstractmethod
    def _features(self, boxes: NDArray[np.float64], vectors: NDArray[np.float32]) -> Features:
        """Cells (n, 4) with their vectors (n, D)."""

    def _counts(self, work: Work) -> Counter[int]:
        return Counter()

    def _write_cells(self, work: Work, path: Path, spec: RasterSpec) -> None:
        scene, grid = self.scenery.scene, self.grid
        profile = {}
        if scene.crs:
            profile = {"crs": scene.crs, "transform": scene.affine @ scene.affine.scale(grid.tile)}
        write_rows(
            path,
            spec,
            ([(tile.column, vector) for tile, vector in row] for row in _rows(grid, work)),
            profile,
            shape=(len(grid.rows.starts), len(grid.columns.starts)),
            scratch=work.folder,
            creation_options=self.creation_options,
        )


class ClassCells(Cells):
    """The class of every cell."""

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    @classmethod
    def check_answer(cls, card: ModelCard, outputs: TileOutputs) -> None:
        vectors = outputs.vectors
        if vectors is None or vectors.ndim != 2 or vectors.shape[1] != len(card.classes):
            shape = "none" if vectors is None else vectors.shape
            raise ValueError(
                f"model '{card.name}' gave vectors of shape {shape} for the card's {len(card.classes)} classes"
            )

    def _main(self) -> RasterSpec:
        return self._classes()

    def _layer(self, raster: Path) -> Layer:
        return ClassLayer(raster, cell=float(self.grid.tile))

    def _features(self, boxes: NDArray[np.float64], vectors: NDArray[np.float32]) -> Features:
        return box_features(boxes, vectors.max(axis=1).astype(np.float64), vectors.argmax(axis=1))

    def _counts(self, work: Work) -> Counter[int]:
        counts: Counter[int] = Counter()
        for batch in self.features(work):
            counts.update(batch.labels.tolist())
        return counts


class EmbeddingCells(Cells):
    """The embedding of every cell."""

    tasks: ClassVar[tuple[str, ...]] = ("embedding",)
    formats: ClassVar[tuple[str, ...]] = (RASTER, ".parquet", QUICKLOOK)

    @classmethod
    def check_answer(cls, card: ModelCard, outputs: TileOutputs) -> None:
        embedding = outputs.embedding
        if embedding is None or embedding.ndim != 2:
            shape = "none" if embedding is None else embedding.shape
            raise ValueError(f"model '{card.name}' gave an embedding of shape {shape}; it must be (B, D)")

    @classmethod
    def check_outputs(cls, card: ModelCard, outputs: Outputs) -> None:
        impossible = [suffix for suffix in VECTOR_SUFFIXES if suffix != ".parquet"]
        refuse_formats(outputs, impossible, "{} cannot hold the vectors of an embedding; choose .parquet or .tif")
        refuse_scores(card, outputs)

    def _main(self) -> RasterSpec:
        return RasterSpec(
            name="embedding",
            source="vectors",
            dtype="float32",
            nodata=float("nan"),
            convert=lambda block: block,
            tags=self.scenery.tags,
        )

    def _layer(self, raster: Path) -> Layer:
        return ValueLayer(raster, "embedding", "components", float(self.grid.tile))

    def _features(self, boxes: NDArray[np.float64], vectors: NDArray[np.float32]) -> Features:
        unknown = np.zeros(len(boxes), np.int64)
        cells = box_features(boxes, np.full(len(boxes), np.nan), unknown)
        return Features(cells.polygons, cells.labels, cells.scores, {"embedding": vectors})


class _Again:
    """The features of a product, made anew each time they are gone through."""

    def __init__(self, product: Cells, work: Work) -> None:
        self._product, self._work = product, work

    def __iter__(self) -> Iterator[Features]:
        return self._product.features(self._work)


def _rows(grid: Grid, work: Work) -> Iterator[Row]:
    """The cells with data of each row, one after the other."""
    row: Row = []
    at = 0
    for tile, vector in stored_vectors(grid, work):
        while at < tile.row:
            yield row
            row, at = [], at + 1
        row.append((tile, vector))
    while at < len(grid.rows.starts):
        yield row
        row, at = [], at + 1
