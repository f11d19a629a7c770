"""One run: a source, a model or function, a product, its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicvis import __version__
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.file_names import Outputs
from dynamicvis.geo.products.product import Product
from dynamicvis.geo.runs.engine import Job, Progress, Source, Times, run_rows, tiles_with_data
from dynamicvis.geo.runs.identity import identify
from dynamicvis.geo.runs.journal import JOURNAL, NothingToWrite, Plan, Work, Workspace
from dynamicvis.geo.runs.memory import MemoryUse, fit_batch_size, measure, memory_is_known, parse_size
from dynamicvis.geo.runs.settings import Settings
from dynamicvis.geo.scene.reading import DEFAULT_CACHE, gdal_cache
from dynamicvis.tile_model import TileOutputs


class Opened(Source, Protocol):
    """What a run needs of a scene, or of a pair of scenes."""

    count: int
    notes: list[str]

    def fingerprint(self) -> Mapping[str, Any]:
        """What tells it from other scenes."""

    def decoding_memory(self) -> int:
        """Bytes that GDAL takes to decode the blocks of a window."""


@dataclass(frozen=True)
class Result:
    """What became of a run.

    Attributes:
        counts: number of features by class name, for the classes that were found.
        tiles: number of tiles with data.
        notes: sentences for the user about what was written.
        times: where this process spent its time; None when the files were there already.
    """

    counts: dict[str, int]
    tiles: int
    notes: tuple[str, ...]
    times: Times | None


class Run:
    """A run that only has to be done: everything that can be checked before the model works is checked.

    Args:
        source: the scene.
        model: called with a batch of tiles (B, bands, height, width); the product takes its answer.
        product: what is made of it.
        outputs: its files.
        settings: how.
        tiling: tile and overlap, pixels.

    Raises:
        GeoError: a setting or an output that cannot be used.
    """

    def __init__(
        self,
        source: Opened,
        model: Callable[[NDArray[np.float32]], Any],
        product: Product,
        outputs: Outputs,
        settings: Settings,
        tiling: tuple[int, int],
    ) -> None:
        settings.check()
        product.check()
        self._source, self._model, self._product, self._outputs = source, model, product, outputs
        self._settings, self._tiling = settings, tiling

    def execute(self, progress: Progress | None = None) -> Result:
        """Do it: either all files are written, or none.

        Raises:
            GeoError: the scene is damaged or empty, an output exists, or there is too little memory or disk.
            ValueError: the model's answer does not fit.
        """
        outputs, settings = self._outputs, self._settings
        name = outputs.stem if len(outputs.names) > 1 else outputs.names[0]
        workspace = Workspace(outputs.folder, name, outputs.names, outputs.staged.names)
        how = {"resume": settings.resume, "overwrite": settings.overwrite}
        with gdal_cache(), workspace.open(self._plan(), **how, campaign=settings.campaign) as work:
            times = None
            if work.result is None:
                times = self._compute(work, progress)
                work.conclude(lambda staging: self._write(work, staging))
            done = work.result or {}
        return Result(done["counts"], done["tiles"], tuple(done["notes"]), times)

    def memory(self) -> int | None:
        """Resident memory of the process at its peak, bytes; None where the system does not tell it.

        The model is called on an empty tile.
        """
        return self._measure().needed(self._settings.batch_size) if memory_is_known() else None

    def _answer(self, images: NDArray[np.float32]) -> TileOutputs:
        return self._product.answer(self._model(images), images.shape)

    def _measure(self) -> MemoryUse:
        return measure(
            self._answer,
            self._source.count,
            self._tiling[0],
            readers=self._settings.readers,
            cache=DEFAULT_CACHE,
            decoding=self._source.decoding_memory(),
        )

    def _plan(self) -> Plan:
        settings, product = self._settings, self._product
        batch_size = settings.batch_size
        if settings.max_memory is not None:
            limit = parse_size(str(settings.max_memory))
            batch_size = fit_batch_size(self._measure(), batch_size, limit)
        identity = identify(self._model)
        tile, overlap = self._tiling
        options = {
            "scene": self._source.fingerprint(),
            product.computed_by: identity.parts,
            **product.options,
            "device": str(getattr(self._model, "device", "cpu")).partition(":")[0],
            "outputs": self._outputs.names,
            "tile": tile,
            "overlap": overlap,
            "batch_size": settings.batch_size,
            "max_memory": settings.max_memory,
            "creation_options": dict(settings.creation_options),
            "version": __version__,
            "journal": JOURNAL,
        }
        return Plan(options, {"batch_size": batch_size}, identity.unknown)

    def _compute(self, work: Work, progress: Progress | None) -> Times:
        job = Job(
            self._source,
            self._answer,
            self._product.grid,
            self._product.rasters,
            score_threshold=self._product.score_threshold,
            batch_size=work.choices["batch_size"],
            readers=self._settings.readers,
        )
        try:
            return run_rows(job, work, progress)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise GeoError(
                f"{self._source.path}: not enough memory for {job.batch_size} tiles at a time; "
                "give a smaller --batch-size or --tile"
            ) from error

    def _write(self, work: Work, staging: Path) -> dict[str, Any]:
        product = self._product
        tiles = tiles_with_data(product.grid, work)
        if tiles == 0:
            raise NothingToWrite(f"{self._source.path} has no pixel with data (NoData everywhere); {product.empty}")
        counts = product.write(work, staging)
        return {"counts": counts, "tiles": tiles, "notes": product.notes}


def refuse_own_scenes(outputs: Outputs, files: Iterable[Path]) -> None:
    """Refuse outputs that would replace the scene.

    Args:
        outputs: of the run.
        files: of the scene.

    Raises:
        GeoError: one of the outputs is one of the files.
    """
    sources = list(files)
    for path in outputs.paths:
        if any(path.exists() and path.samefile(file) for file in sources):
            raise GeoError(f"{path} is the scene itself and would be replaced; choose another output")


def _out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error)
    )
