"""Reading, model and writing of a scene, side by side.

Reader threads fetch tiles ahead, the calling thread runs the model, a writer thread blends and stores. The queues
between them are bounded, so memory does not depend on the size of the scene; batches never reach across a row of tiles,
so that the numbers do not depend on who computes which row.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicvis.geo.errors import full_disk
from dynamicvis.geo.runs.journal import Work
from dynamicvis.geo.runs.ownership import taken
from dynamicvis.geo.stitching.assembly import StoredRow
from dynamicvis.geo.stitching.candidates import candidate_arrays, load_candidates, save_arrays, to_candidates
from dynamicvis.geo.stitching.grid import Extent, Grid, Tile
from dynamicvis.geo.stitching.merge import Candidates
from dynamicvis.geo.stitching.raster_spec import RasterSpec
from dynamicvis.geo.stitching.rows import RowWriter
from dynamicvis.tile_model import Predictor, TileOutputs

Read = tuple[NDArray[np.float32], NDArray[np.bool_]]
_POLL = 0.2  # seconds between two looks at what other processes have done


class Source(Protocol):
    """What the engine needs of a scene: windows of it, from any thread."""

    path: str
    height: int
    width: int

    def read(self, window: Extent) -> Read:
        """Values (bands, height, width) and where there is data (height, width)."""


@dataclass(frozen=True)
class Job:
    """What to make of a scene.

    Attributes:
        source: the scene.
        predict: the model.
        grid: the tiles.
        rasters: made of the model's maps; none for a model that gives objects or vectors.
        score_threshold: objects below it are dropped.
        batch_size: tiles in one call of the model.
        readers: threads that read.
    """

    source: Source
    predict: Predictor
    grid: Grid
    rasters: Sequence[RasterSpec] = ()
    score_threshold: float = 0.0
    batch_size: int = 4
    readers: int = 2


@dataclass
class Times:
    """Where a run spent its time, seconds.

    Attributes:
        model: inside the model.
        waited_for_reading: the model had no tile to work on.
        waited_for_writing: the model had to wait until its last results were taken.
        tiles, empty: tiles that the model saw, and tiles without data.
    """

    model: float = 0.0
    waited_for_reading: float = 0.0
    waited_for_writing: float = 0.0
    tiles: int = 0
    empty: int = 0
    total: float = field(default=0.0)

    def report(self) -> str:
        """One sentence that says which of the three the run waited for."""
        waits = {"reading": self.waited_for_reading, "writing": self.waited_for_writing, "the model": self.model}
        slowest = max(waits, key=lambda name: waits[name])
        shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in waits.items())
        return f"most of the time went to {slowest} ({shares})"


# Called with the number of tiles done, by whomever, of all tiles, and the number of pixels of the scene.
Progress = Callable[[int, int, int], None]


def run_rows(job: Job, work: Work, progress: Progress | None = None) -> Times:
    """Compute all rows of tiles that no other process computes, and wait for those that others do.

    Returns when every row has its journal entry. Whatever stops it, finished rows stay and the one in the making
    leaves nothing behind.

    Raises:
        GeoError: the scene is damaged, or the disk is full.
        ValueError: the model's answer does not fit its input.
    """
    times = Times()
    start = time.perf_counter()
    report = _Report(job.grid, work, progress)
    report()
    while not work.gone:
        try:
            with _Pipeline(job, work, times, report) as pipeline:
                pipeline.run()
        except OSError as error:
            if work.gone:  # A process that took this one for gone has finished the work and removed the folder.
                break
            raise full_disk(error, work.folder.parents[2]) or error from error
        if report.all_done():
            break
        time.sleep(_POLL)
        report()
    times.total = time.perf_counter() - start
    return times


def row_name(row: int) -> str:
    """The unit of work of a row of tiles."""
    return f"row-{row:06d}"


def tiles_with_data(grid: Grid, work: Work) -> int:
    """How many tiles the model saw, here and elsewhere."""
    return sum((work.entry(row_name(row)) or {"tiles": 0})["tiles"] for row in range(len(grid.rows.starts)))


def full_tiles(grid: Grid, work: Work) -> tuple[int, int]:
    """How many tiles gave as many objects as the model gives at most, and how many objects that are."""
    entries = [work.entry(row_name(row)) or {} for row in range(len(grid.rows.starts))]
    return sum(entry.get("full", 0) for entry in entries), max(entry.get("most", 0) for entry in entries)


def stored_rows(grid: Grid, work: Work) -> list[StoredRow]:
    """The finished rows of a scene whose model makes maps."""
    stored = []
    for row in range(len(grid.rows.starts)):
        entry = work.entry(row_name(row)) or {}
        path = work.folder / f"{row_name(row)}.raw"
        stored.append(StoredRow(path, entry["offsets"], entry["channels"], entry["bands"]))
    return stored


def stored_objects(grid: Grid, work: Work) -> Iterator[tuple[Tile, Candidates]]:
    """The candidates of each tile that has some, row by row."""
    for row, path in _stored_arrays(grid, work):
        with np.load(path) as arrays:
            yield from load_candidates(arrays, list(grid.tiles_of_row(row)))


def stored_vectors(grid: Grid, work: Work) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
    """The vector (D,) of each tile that has data, row by row."""
    for row, path in _stored_arrays(grid, work):
        tiles = list(grid.tiles_of_row(row))
        with np.load(path) as arrays:
            for column, vector in zip(arrays["vector_columns"], arrays["vectors"], strict=True):
                yield tiles[column], vector


def _stored_arrays(grid: Grid, work: Work) -> Iterator[tuple[int, Path]]:
    for row in range(len(grid.rows.starts)):
        path = work.folder / f"{row_name(row)}.npz"
        if path.exists():
            yield row, path


class _Report:
    """Counts what is done, here and elsewhere, and tells it."""

    def __init__(self, grid: Grid, work: Work, progress: Progress | None) -> None:
        self._work, self._progress = work, progress
        self._rows, self._columns = len(grid.rows.starts), len(grid.columns.starts)
        self._pixels = grid.height * grid.width
        self._done: set[int] = set()
        self.running = 0

    def __call__(self) -> None:
        if self._progress is not None:
            total = self._rows * self._columns
            if self.running == 0:
                self.all_done()
            self._progress(min(len(self._done) * self._columns + self.running, total), total, self._pixels)

    def all_done(self) -> bool:
        done = self._work.finished()
        self._done |= {row for row in range(self._rows) if row not in self._done and row_name(row) in done}
        return len(self._done) == self._rows

    def undone(self) -> list[int]:
        self.all_done()
        return [row for row in range(self._rows) if row not in self._done]


@dataclass(frozen=True)
class _Item:
    """A tile on its way to the writer; without outputs where it has no data."""

    tile: Tile
    valid: NDArray[np.bool_] | None
    outputs: TileOutputs | None
    index: int


class _Pipeline:
    """One pass over the rows that can be had; a context that stops its threads whatever happens."""

    def __init__(self, job: Job, work: Work, times: Times, report: _Report) -> None:
        self._job, self._work, self._times, self._report = job, work, times, report
        self._items: queue.Queue[_Item | None] = queue.Queue(maxsize=job.batch_size)
        self._error: BaseException | None = None
        self._claimed: set[int] = set()

    def __enter__(self) -> _Pipeline:
        self._readers = ThreadPoolExecutor(self._job.readers, "dynamicvis-reader")
        self._writer = threading.Thread(target=self._write, name="dynamicvis-writer")
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._error = self._error or InterruptedError()
        self._items.put(None)
        self._writer.join()
        self._readers.shutdown(cancel_futures=True)
        for row in self._claimed:
            self._work.release(row_name(row))
        if kind is None and self._error is not None:
            raise self._error

    def run(self) -> None:
        """Read and predict; returns early when the writer has failed."""
        # Tiles go into the batch at once. Of one without data nothing is kept, so that any number of them may wait.
        pending: list[tuple[Tile, NDArray[np.bool_] | None]] = []
        images: NDArray[np.float32] | None = None
        filled = 0
        last_column = len(self._job.grid.columns.starts) - 1
        for tile, future in self._read_ahead():
            before = time.perf_counter()
            values, valid = future.result()
            self._times.waited_for_reading += time.perf_counter() - before
            has_data = bool(valid.any())
            pending.append((tile, valid if has_data else None))
            if has_data:
                if images is None:
                    images = np.empty((self._job.batch_size, *values.shape), np.float32)
                images[filled] = values
                filled += 1
            del values, valid, future
            if filled == self._job.batch_size or tile.column == last_column:
                batch = [] if images is None else [images[:filled]]
                images = None  # The list is the only holder: what the model makes of its memory need not be copied.
                self._predict(pending, batch)
                pending, filled = [], 0
            if self._error is not None:
                return

    def _read_ahead(self) -> Iterator[tuple[Tile, Future[Read]]]:
        ahead: deque[tuple[Tile, Future[Read]]] = deque()
        for tile in self._claimed_tiles():
            ahead.append((tile, self._readers.submit(self._job.source.read, tile.window)))
            if len(ahead) > self._job.batch_size + self._job.readers:
                yield ahead.popleft()
        yield from ahead

    def _claimed_tiles(self) -> Iterator[Tile]:
        for row in self._report.undone():
            if self._work.claim(row_name(row)):
                self._claimed.add(row)
                yield from self._job.grid.tiles_of_row(row)

    def _predict(
        self, pending: Sequence[tuple[Tile, NDArray[np.bool_] | None]], batch: list[NDArray[np.float32]]
    ) -> None:
        """Run the model on a batch, taken out of a list of one or none, and hand on what it gives."""
        outputs, count = None, 0
        if batch:
            count = len(batch[0])
            before = time.perf_counter()
            try:
                outputs = taken([self._job.predict(batch.pop())])
            except OSError as error:
                # What a model writes is not the output's: a cache, temporary files.
                raise full_disk(error) or error from error
            self._times.model += time.perf_counter() - before
            _check_length(outputs, count)
        self._times.tiles += count
        self._times.empty += len(pending) - count
        before = time.perf_counter()
        index = 0
        for tile, valid in pending:
            self._items.put(_Item(tile, valid, None if valid is None else outputs, index))
            index += valid is not None
        self._times.waited_for_writing += time.perf_counter() - before

    def _write(self) -> None:
        row: _RowInTheMaking | None = None
        try:
            while (item := self._items.get()) is not None:
                if self._error is not None:
                    continue
                try:
                    row = row or _RowInTheMaking(self._job, self._work, item.tile.row)
                    row.add(item)
                    self._report.running = item.tile.column + 1
                    if item.tile.column == len(self._job.grid.columns.starts) - 1:
                        row.finish()
                        row = None
                        self._claimed.discard(item.tile.row)
                        self._report.running = 0
                    self._report()
                except BaseException as error:
                    # Handed to the thread that runs the model, which stops at its next tile.
                    self._error = error
        finally:
            if row is not None:
                row.abandon()


class _RowInTheMaking:
    """What the tiles of one row have given so far."""

    def __init__(self, job: Job, work: Work, row: int) -> None:
        self._job, self._work, self._row = job, work, row
        self._raw = work.draft(f"{row_name(row)}.raw")
        self._arrays = work.draft(f"{row_name(row)}.npz")
        self._writer = RowWriter(self._raw, job.grid, row, job.rasters) if job.rasters else None
        self._objects: list[tuple[Tile, Candidates]] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._columns: list[int] = []
        self._with_data = 0
        self._full, self._most = 0, 0

    def add(self, item: _Item) -> None:
        if item.outputs is None or item.valid is None:
            if self._writer is not None:
                self._writer.add_empty()
            return
        self._with_data += 1
        outputs, tile = item.outputs, item.tile
        if self._writer is not None:
            self._writer.add(tile, {name: maps[item.index] for name, maps in outputs.maps.items()}, item.valid)
        if outputs.objects is not None:
            objects = outputs.objects[item.index]
            reported = int((np.asarray(objects.scores) >= self._job.score_threshold).sum())
            if objects.most is not None and reported >= objects.most:
                self._full, self._most = self._full + 1, max(self._most, objects.most)
            found = to_candidates(
                tile,
                objects,
                item.valid,
                (self._job.grid.height, self._job.grid.width),
                self._job.score_threshold,
            )
            self._objects.append((tile, found))
        vectors = outputs.embedding if outputs.vectors is None else outputs.vectors
        if vectors is not None:
            self._vectors.append(vectors[item.index])
            self._columns.append(tile.column)

    def finish(self) -> None:
        drafts = {}
        entry: dict[str, Any] = {"tiles": self._with_data, "full": self._full, "most": self._most}
        if self._writer is not None:
            self._writer.close()
            drafts[f"{row_name(self._row)}.raw"] = self._raw
            entry |= {
                "offsets": self._writer.offsets,
                "channels": self._writer.channels,
                "bands": self._writer.bands,
            }
        if self._objects or self._vectors:
            arrays = candidate_arrays(self._objects)
            if self._vectors:
                arrays |= {"vectors": np.array(self._vectors), "vector_columns": np.array(self._columns, np.int64)}
            save_arrays(self._arrays, arrays)
            drafts[f"{row_name(self._row)}.npz"] = self._arrays
        self._work.finish(row_name(self._row), entry, drafts)

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
        self._arrays.unlink(missing_ok=True)


def _check_length(outputs: TileOutputs, length: int) -> None:
    parts = {**outputs.maps, "objects": outputs.objects, "vectors": outputs.vectors, "embedding": outputs.embedding}
    for name, part in parts.items():
        if part is not None and len(part) != length:
            raise ValueError(f"the model gave {name} for {len(part)} tiles of {length}")
