"""What every product of a run has: a grid of tiles, checks, rasters, files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.runs.engine import stored_rows
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.stitching.assembly import Mosaic, check_creation_options, write_rasters
from dynamicvis.geo.stitching.grid import Grid
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.tile_model import TileOutputs


class Product(ABC):
    """What is made of a source by a model or function: rasters while the tiles go by, files when all are done.

    Attributes:
        kind: what is counted.
        computed_by: what computes it, for messages about another run.
        empty: what a source without data gives, the end of a sentence about it.
        grid: the tiles.
        profile: CRS and affine of its rasters; nothing for a source that has none.
        creation_options: of GDAL's COG driver.
        score_threshold: objects below it are dropped.
        notes: sentences for the user about what `write` has written.
    """

    kind: ClassVar[str]
    computed_by: ClassVar[str] = "model"
    empty: ClassVar[str] = "there is nothing to find in it"

    def __init__(
        self, grid: Grid, profile: Mapping[str, Any], creation_options: Mapping[str, str], score_threshold: float
    ) -> None:
        self.grid, self.profile, self.creation_options = grid, profile, creation_options
        self.score_threshold = score_threshold
        self.notes: list[str] = []

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """What its bytes depend on beside scene, model and settings; JSON values by name."""

    @property
    @abstractmethod
    def rasters(self) -> Sequence[RasterSpec]:
        """Made of the model's maps."""

    @property
    def written(self) -> Sequence[RasterSpec]:
        """All rasters that become files."""
        return self.rasters

    @abstractmethod
    def answer(self, given: Any, shape: tuple[int, ...]) -> TileOutputs:
        """What the model or function gave for a batch, checked.

        Args:
            given: its answer.
            shape: of the batch, (B, bands, height, width).

        Raises:
            ValueError: the answer does not fit.
        """

    def check(self) -> None:
        """Refuse files that cannot be made of the source, before any work.

        Raises:
            GeoError: there are such, or a creation option that GDAL does not take.
        """
        for spec in self.written:
            check_creation_options(spec, self.creation_options)

    @abstractmethod
    def write(self, work: Work, staging: Path) -> dict[str, int]:
        """Write all files into a folder, once every tile is done; returns the number of features by class."""

    def _write_maps(self, work: Work, targets: Mapping[Path, RasterSpec]) -> dict[str, NDArray[np.int64]]:
        """Write rasters of maps to their paths; returns the pixels of each value, for those of bytes."""
        if not targets:
            return {}
        return write_rasters(
            Mosaic(self.grid, list(self.rasters), stored_rows(self.grid, work)),
            self.grid,
            targets,
            self.profile,
            scratch=work.folder,
            creation_options=self.creation_options,
        )
