"""From scenes to files: the functions behind ``dynamicvis predict``, ``change`` and ``embed``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dynamicvis import __version__
from dynamicvis.geo.assembly import check_creation_options
from dynamicvis.geo.engine import Job, Progress, Times, full_tiles, run_bands, tiles_with_data
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.mapping import check_batches, check_tiling
from dynamicvis.geo.memory import MemoryUse, fit_batch_size, measure, memory_is_known, parse_size
from dynamicvis.geo.models import load_model
from dynamicvis.geo.outputs import Outputs, plan_outputs
from dynamicvis.geo.pair import ScenePair
from dynamicvis.geo.products import check_outputs
from dynamicvis.geo.reading import DEFAULT_CACHE, gdal_cache
from dynamicvis.geo.runs.identity import identify
from dynamicvis.geo.scenes import scene_name
from dynamicvis.geo.source import Scene
from dynamicvis.geo.tasks import Scenery, make_grid, make_task
from dynamicvis.geo.vectors import layer_name
from dynamicvis.geo.work import Hopeless, Plan, Work, WorkPlace
from dynamicvis.model_card import ModelCard, find_model, read_card
from dynamicvis.tile_model import TileModel, TileOutputs


@dataclass(frozen=True)
class Settings:
    """How scenes are read, computed and written; the same for any number of them.

    Attributes:
        formats: suffixes of the files in an output folder; those that suit the task if there are none.
        scores, selection, preview: also write a raster of class probabilities, a raster of where the backbone looked,
            a page to look at.
        tile, overlap: pixels; the card's if not given. A given tile alone has at most half of it as overlap.
        batch_size: tiles in one call of the model.
        readers: threads that read ahead.
        max_memory: bytes, or text such as ``"4GB"``: lowers ``batch_size`` until the process stays below it, or
            refuses.
        bands: numbers of the bands to read, in the order of the card's.
        nodata: value that means no data, instead of the file's.
        bounds: left, bottom, right, top in the CRS of the scene: only this part is read.
        creation_options: of GDAL's COG driver.
        resume: go on with an interrupted run, and take a finished one for the result; otherwise begin anew.
        overwrite: replace files of an earlier run.
        campaign: a name that the processes of one call share: what one of them has finished is the result for those
            that come later, even if they are to begin anew or to overwrite.
    """

    formats: Sequence[str] = ()
    scores: bool = False
    selection: bool = False
    preview: bool = False
    tile: int | None = None
    overlap: int | None = None
    batch_size: int = 4
    readers: int = 2
    max_memory: int | str | None = None
    bands: Sequence[int] | None = None
    nodata: float | None = None
    bounds: tuple[float, float, float, float] | None = None
    creation_options: Mapping[str, str] = field(default_factory=dict)
    resume: bool = True
    overwrite: bool = False
    campaign: str | None = None


@dataclass(frozen=True)
class PredictResult:
    """What a run wrote.

    Attributes:
        paths: the files.
        kind: what is counted: ``"object"``, ``"polygon"`` or ``"cell"``.
        counts: their number by class name, for the classes that were found.
        tiles: number of tiles with data.
        notes: sentences for the user about the scene and the result.
        times: where this process spent its time; None when the files were there already.
    """

    paths: tuple[Path, ...]
    kind: str
    counts: dict[str, int]
    tiles: int
    notes: tuple[str, ...]
    times: Times | None

    @property
    def count(self) -> int:
        """Number of objects, polygons or cells."""
        return sum(self.counts.values())


class LazyModel:
    """A model file that is loaded when it is first called, so that all else is checked before.

    Args:
        name_or_path: a name listed by ``dynamicvis models``, or a file.
        device: where it runs.
        selection, embedding: as for `dynamicvis.geo.load_model`.

    Attributes:
        card: of the model, or of the embedding that is made of it.
        digest: SHA-256 of the file.
        device: where it runs.

    Raises:
        ModelFileError: the file is missing, damaged, or has no card.
    """

    def __init__(
        self, name_or_path: str | Path, device: str = "cpu", *, selection: bool = False, embedding: bool = False
    ) -> None:
        self._path = find_model(str(name_or_path))
        self._options = {"selection": selection, "embedding": embedding}
        self._model: TileModel | None = None
        card = read_card(self._path)
        self.card: ModelCard = replace(card, task="embedding") if embedding else card
        self.device = device
        with self._path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        """Results for a batch of tiles."""
        if self._model is None:
            self._model = load_model(self._path, self.device, **self._options)
        return self._model(images)


@dataclass(frozen=True)
class Request:
    """One scene, or pair of scenes, to run a model over; with a model given by its name, it can go to another process.

    Attributes:
        operation: ``"predict"``, ``"change"`` or ``"embed"``.
        scenes: one path, or for ``"change"`` the earlier and the later one.
        out: folder of the results, or one file whose suffix says what it is to hold.
        model: name of a shipped model, a model file, or a loaded model.
        name: what the files are called in a folder, a safe name (`dynamicvis.files.safe_name`); that of the scene's
            stem if not given.
        device: where a model that is not loaded yet runs.
        align: for ``"change"``, reproject the later scene to the grid of the earlier one where they differ.
        settings: all else.
    """

    operation: Literal["predict", "change", "embed"]
    scenes: tuple[str, ...]
    out: str
    model: str | Path | TileModel
    name: str | None = None
    device: str = "cpu"
    align: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        rows, columns: of the grid of tiles.
        tile, overlap: pixels.
        memory: resident memory of the process at its peak, bytes; None where the system does not tell it.
        scratch: disk for unfinished work next to the outputs, bytes, if all pixels have data.
        output: size of the rasters before compression, without overviews, bytes.
        paths: the files.
        notes: sentences for the user about the scene.
    """

    rows: int
    columns: int
    tile: int
    overlap: int
    memory: int | None
    scratch: int
    output: int
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def predict(
    scene_path: str | Path,
    out: str | Path,
    model: str | Path | TileModel = "trees",
    *,
    name: str | None = None,
    device: str = "cpu",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PredictResult:
    """Run a model over a scene and write what it finds.

    What is written follows the model's task: objects as boxes or masks; a raster of classes and their regions; a raster
    of one class or embedding a cell, a cell being a tile. Either all files are written, or none. The run can be killed
    at any time and goes on where it stopped when it is called again; several processes that make the same call share
    the work; the files are the same, byte for byte.

    Args:
        scene_path: a raster with the bands, units and roughly the pixel size that the model's card names.
        out, model, name, device, settings: see `Request`.
        progress: called with the number of tiles done, of all tiles, and of the scene's pixels; first with 0 tiles.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    request = Request("predict", (str(scene_path),), str(out), model, name, device, settings=settings or Settings())
    return run(request, progress)


def detect_change(
    before: str | Path,
    after: str | Path,
    out: str | Path,
    model: str | Path | TileModel,
    *,
    align: bool = False,
    name: str | None = None,
    device: str = "cpu",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PredictResult:
    """Run a model for change detection over two scenes of one place; see `predict`.

    Args:
        before, after: scenes with the same CRS and pixel grid; what both cover is compared.
        align: reproject ``after`` to the grid of ``before`` where they differ, while it is read.
        out, model, name, device, settings, progress: as for `predict`.

    Raises:
        GeoError: the scenes do not fit each other, or as for `predict`.
        ModelFileError: a model file that cannot be used.
    """
    scenes = str(before), str(after)
    return run(Request("change", scenes, str(out), model, name, device, align, settings or Settings()), progress)


def embed(
    scene_path: str | Path,
    out: str | Path,
    model: str | Path | TileModel,
    *,
    name: str | None = None,
    device: str = "cpu",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PredictResult:
    """Write an embedding for every cell of a scene, as raster and as GeoParquet; a cell is a tile. See `predict`.

    Args:
        scene_path, out, name, device, settings, progress: as for `predict`.
        model: of any task; its backbone is used.

    Raises:
        GeoError: as for `predict`.
        ModelFileError: a model file that cannot be used.
    """
    request = Request("embed", (str(scene_path),), str(out), model, name, device, settings=settings or Settings())
    return run(request, progress)


def lazy_model(request: Request) -> TileModel:
    """The model of a request, loaded when it is first called.

    Raises:
        ModelFileError: its file is missing, damaged, or has no card.
    """
    if isinstance(request.model, str | Path):
        embedding = request.operation == "embed"
        return LazyModel(request.model, request.device, selection=request.settings.selection, embedding=embedding)
    return request.model


def planned_outputs(request: Request, card: ModelCard) -> Outputs:
    """The files that a request is to give, with a model of this card.

    Raises:
        GeoError: an output that cannot be made, or a name or path that cannot be.
    """
    settings = request.settings
    name = scene_name(request.scenes[0]) if request.name is None else request.name
    return plan_outputs(
        request.out,
        name,
        card.task,
        formats=settings.formats,
        preview=settings.preview,
        scores=settings.scores,
        selection=settings.selection,
    )


def run(request: Request, progress: Progress | None = None) -> PredictResult:
    """Do what a request asks for; see `predict`, `detect_change` and `embed`.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    with _prepared(request) as prepared:
        return prepared.execute(progress)


def estimate(request: Request) -> Estimate:
    """What a request would take, and whether it could be done, without doing it; the model is run on an empty tile.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    with _prepared(request) as prepared:
        return prepared.estimate()


@contextmanager
def _prepared(request: Request) -> Iterator[_Prepared]:
    """Open the scenes of a request and check everything that can be checked before the model is loaded."""
    model, settings = lazy_model(request), request.settings
    card = model.card
    if request.operation != "change" and card.task == "change":
        raise GeoError(f"model '{card.name}' compares two dates; use `dynamicvis change BEFORE AFTER`")
    if request.operation == "change" and card.task != "change":
        raise GeoError(
            f"model '{card.name}' is for {card.task.replace('_', ' ')} and not for change; "
            "use `dynamicvis predict`, or give another --model"
        )
    outputs = planned_outputs(request, card)
    with ExitStack() as stack:
        # A pair has the bounds of its first scene: the second may have another CRS.
        later = replace(settings, bounds=None)
        scenes = [
            stack.enter_context(_scene(path, card, later if number else settings))
            for number, path in enumerate(request.scenes)
        ]
        _refuse_own_scenes(outputs, scenes)
        if len(scenes) == 1:
            yield _Prepared(scenes[0], scenes[0], None, model, outputs, settings)
        else:
            pair = stack.enter_context(ScenePair(*scenes, align=request.align))
            yield _Prepared(pair, _OneDate(pair, 1), _OneDate(pair, 0), model, outputs, settings)


class _OneDate:
    """One of the dates of a pair, over what both dates cover, as the pictures need it."""

    def __init__(self, pair: ScenePair, date: int) -> None:
        self.path = (pair.before, pair.after)[date].path
        self.height, self.width, self.crs, self.affine, self.gsd = (
            pair.height,
            pair.width,
            pair.crs,
            pair.affine,
            pair.gsd,
        )
        self._pair, self._date = pair, date

    def read_resampled(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values (bands, height, width) and where both dates have data."""
        values, valid = self._pair.read_resampled(height, width)
        count = len(values) // 2
        return values[self._date * count :][:count], valid


def _scene(path: str | Path, card: ModelCard, settings: Settings) -> Scene:
    scene = Scene(path, card, bands=settings.bands, nodata=settings.nodata, bounds=settings.bounds)
    if not scene.georeferenced:
        scene.close()
        raise GeoError(
            f"{path} has no place on a map (no CRS or no affine); give it one with "
            "`gdal_edit.py -a_srs EPSG:<code> -a_ullr <left> <top> <right> <bottom>`"
        )
    return scene


def tiling(card: ModelCard, tile: int | None, overlap: int | None) -> tuple[int, int]:
    """Tile and overlap in pixels: as given, else the card's. For a given tile alone, overlap is at most half of it.

    Raises:
        GeoError: tile below 1, or overlap below 0 or not below tile.
    """
    size = card.tile if tile is None else tile
    if overlap is None:
        overlap = card.overlap if tile is None else min(card.overlap, size // 2)
    check_tiling(size, overlap)
    return size, overlap


class _Prepared:
    """A run that only has to be done."""

    def __init__(
        self, scene: Any, ground: Any, before: Any, model: TileModel, outputs: Outputs, settings: Settings
    ) -> None:
        card = model.card
        self._scene, self._model, self._settings = scene, model, settings
        tile, self._overlap = tiling(card, settings.tile, settings.overlap)
        check_batches(settings.batch_size, settings.readers)
        self._outputs = outputs
        self._grid = make_grid(card, scene.height, scene.width, tile, self._overlap)
        tags = _tags(model, tile, self._overlap)
        options = settings.creation_options
        layer = layer_name(outputs.stem)
        self._task = make_task(Scenery(scene, ground, before, card, self._grid, outputs.staged, layer, tags, options))
        self._task.check()
        for spec in self._task.written:
            check_creation_options(spec, options)

    def execute(self, progress: Progress | None) -> PredictResult:
        outputs, settings = self._outputs, self._settings
        name = outputs.stem if len(outputs.names) > 1 else outputs.names[0]
        place = WorkPlace(outputs.folder, name, outputs.names, outputs.staged.names)
        with (
            gdal_cache(),
            place.open(
                self._plan(),
                resume=settings.resume,
                overwrite=settings.overwrite,
                campaign=settings.campaign,
            ) as work,
        ):
            times = None
            if work.result is None:
                times = self._compute(work, progress)
                work.conclude(lambda staging: self._make_outputs(work, staging))
            done = work.result or {}
        notes = (*self._scene.notes, *done.get("notes", ()))
        return PredictResult(tuple(outputs.paths), self._task.kind, done["counts"], done["tiles"], notes, times)

    def estimate(self) -> Estimate:
        grid, settings = self._grid, self._settings
        memory = None
        if memory_is_known():
            memory = self._measure().needed(settings.batch_size)
        output, scratch = self._task.bytes_per_pixel()
        pixels = grid.height * grid.width
        return Estimate(
            len(grid.rows.starts),
            len(grid.columns.starts),
            grid.tile,
            self._overlap,
            memory,
            round(scratch * pixels),
            round(output * pixels),
            tuple(self._outputs.paths),
            tuple(self._scene.notes),
        )

    def _measure(self) -> MemoryUse:
        return measure(
            self._model,
            self._scene.count,
            self._grid.tile,
            readers=self._settings.readers,
            cache=DEFAULT_CACHE,
            decoding=self._scene.decoding_memory(),
        )

    def _plan(self) -> Plan:
        settings, model = self._settings, self._model
        batch_size = settings.batch_size
        if settings.max_memory is not None:
            limit = parse_size(str(settings.max_memory))
            batch_size = fit_batch_size(self._measure(), batch_size, limit)
        identity = identify(model)
        options = {
            "scene": self._scene.fingerprint(),
            "model": identity.parts,
            "card": hashlib.sha256(repr(asdict(model.card)).encode()).hexdigest(),
            "device": str(getattr(model, "device", "cpu")).partition(":")[0],
            "outputs": self._outputs.names,
            "tile": self._grid.tile,
            "overlap": self._overlap,
            "batch_size": settings.batch_size,
            "max_memory": settings.max_memory,
            "creation_options": dict(settings.creation_options),
            "version": __version__,
        }
        return Plan(options, {"batch_size": batch_size}, identity.unknown)

    def _compute(self, work: Work, progress: Progress | None) -> Times:
        job = Job(
            self._scene,
            self._predict,
            self._grid,
            self._task.rasters,
            score_threshold=self._model.card.score_threshold,
            batch_size=work.choices["batch_size"],
            readers=self._settings.readers,
        )
        try:
            times = run_bands(job, work, progress)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise GeoError(
                f"{self._scene.path}: not enough memory for {job.batch_size} tiles at a time; "
                "give a smaller --batch-size or --tile"
            ) from error
        return times

    def _predict(self, images: NDArray[np.float32]) -> TileOutputs:
        outputs = self._model(images)
        check_outputs(outputs, self._model.card)
        return outputs

    def _make_outputs(self, work: Work, staging: Path) -> dict[str, Any]:
        tiles = tiles_with_data(self._grid, work)
        if tiles == 0:
            raise Hopeless(
                f"{self._scene.path} has no pixel with data (NoData everywhere); there is nothing to find in it"
            )
        counts = self._task.write(work, staging)
        return {"counts": counts, "tiles": tiles, "notes": [*self._notes(work), *self._task.notes]}

    def _notes(self, work: Work) -> Iterator[str]:
        """Sentences on what the tiles gave."""
        full, most = full_tiles(self._grid, work)
        if full:
            size = self._grid.tile
            yield (
                f"{full} of the tiles of {self._scene.path} gave {most} objects, the most that model "
                f"'{self._model.card.name}' gives for {size} x {size} pixels, so more may be there: look again with "
                f"--tile {max(min(size, self._model.card.tile) // 2, 1)}"
            )


def _tags(model: TileModel, tile: int, overlap: int) -> dict[str, str]:
    card = {name: value for name, value in asdict(model.card).items() if name != "config"}
    return {
        "DYNAMICVIS_VERSION": __version__,
        "DYNAMICVIS_MODEL": model.card.name,
        "DYNAMICVIS_WEIGHTS_SHA256": getattr(model, "digest", "") or "not from a file",
        "DYNAMICVIS_CARD": json.dumps(card, ensure_ascii=False),
        "DYNAMICVIS_TILING": f"tile {tile}, overlap {overlap}",
    }


def _refuse_own_scenes(outputs: Outputs, scenes: Sequence[Scene]) -> None:
    sources = [file for scene in scenes for file in scene.files]
    for path in outputs.paths:
        for source in sources:
            if path.exists() and path.samefile(source):
                raise GeoError(f"{path} is the scene itself and would be replaced; choose another output")


def _out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error)
    )
