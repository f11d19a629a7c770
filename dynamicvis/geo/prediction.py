"""From scenes to files: the functions behind ``dynamicvis predict``, ``change`` and ``embed``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynamicvis import __version__
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.models import LazyModel
from dynamicvis.geo.output.file_names import Outputs, plan_outputs
from dynamicvis.geo.output.vectors import layer_name
from dynamicvis.geo.products import product_of
from dynamicvis.geo.products.of_model import ModelProduct, Scenery
from dynamicvis.geo.runs.engine import Progress, Times
from dynamicvis.geo.runs.run import Run, refuse_own_scenes
from dynamicvis.geo.runs.settings import Settings
from dynamicvis.geo.scene.finding import scene_name
from dynamicvis.geo.scene.pair import ScenePair
from dynamicvis.geo.scene.source import Scene
from dynamicvis.model_card import ModelCard
from dynamicvis.tile_model import TileModel


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


@dataclass(frozen=True)
class Request:
    """What to do with scenes; with a model given by its name, it can go to another process.

    Attributes:
        operation: ``"predict"``, ``"change"`` or ``"embed"``.
        out: folder of the results, or one file whose suffix says what it is to hold.
        model: name of a shipped model, a model file, or a loaded model.
        device: where a model that is not loaded yet runs.
        align: for ``"change"``, reproject the later scene to the grid of the earlier one where they differ.
        settings: all else.
    """

    operation: Literal["predict", "change", "embed"]
    out: str
    model: str | Path | TileModel
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
        out, model, device, settings: see `Request`.
        name: what the files are called in a folder, a safe name (`dynamicvis.files.safe_name`); that of the scene's
            stem if not given.
        progress: called with the number of tiles done, of all tiles, and of the scene's pixels; first with 0 tiles.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    request = Request("predict", str(out), model, device, settings=settings or Settings())
    return run(request, [scene_path], name, progress)


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
    request = Request("change", str(out), model, device, align, settings or Settings())
    return run(request, [before, after], name, progress)


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
    request = Request("embed", str(out), model, device, settings=settings or Settings())
    return run(request, [scene_path], name, progress)


def lazy_model(request: Request) -> TileModel:
    """The model of a request, loaded when it is first called.

    Raises:
        ModelFileError: its file is missing, damaged, or has no card.
    """
    if isinstance(request.model, str | Path):
        embedding = request.operation == "embed"
        return LazyModel(request.model, request.device, selection=request.settings.selection, embedding=embedding)
    return request.model


def planned_outputs(request: Request, name: str, card: ModelCard) -> Outputs:
    """The files that a request is to give for a scene, with a model of this card.

    Raises:
        GeoError: an output that cannot be made, or a name or path that cannot be.
    """
    settings, family = request.settings, product_of(card)
    outputs = plan_outputs(
        request.out,
        name,
        family.formats,
        formats=settings.formats,
        preview=settings.preview,
        scores=settings.scores,
        selection=settings.selection,
    )
    family.check_outputs(card, outputs)
    return outputs


def run(
    request: Request, scenes: Sequence[str | Path], name: str | None = None, progress: Progress | None = None
) -> PredictResult:
    """Do what a request asks for; see `predict`, `detect_change` and `embed`.

    Args:
        request: what to do.
        scenes: one path, or for ``"change"`` the earlier and the later one.
        name: what the files are called in a folder, a safe name (`dynamicvis.files.safe_name`); that of the scene's
            stem if not given.
        progress: as for `predict`.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    with _prepared(request, scenes, name) as prepared:
        result = prepared.run.execute(progress)
        paths, notes = tuple(prepared.outputs.paths), (*prepared.source.notes, *result.notes)
        return PredictResult(paths, prepared.product.kind, result.counts, result.tiles, notes, result.times)


def estimate(request: Request, scenes: Sequence[str | Path], name: str | None = None) -> Estimate:
    """What a request would take, and whether it could be done, without doing it; the model is run on an empty tile.

    Args:
        request, scenes, name: as for `run`.

    Raises:
        GeoError: a scene, an option or an output that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    with _prepared(request, scenes, name) as prepared:
        grid, (tile, overlap) = prepared.product.grid, prepared.tiling
        output, scratch = prepared.product.bytes_per_pixel()
        pixels = grid.height * grid.width
        return Estimate(
            len(grid.rows.starts),
            len(grid.columns.starts),
            tile,
            overlap,
            prepared.run.memory(),
            round(scratch * pixels),
            round(output * pixels),
            tuple(prepared.outputs.paths),
            tuple(prepared.source.notes),
        )


@dataclass(frozen=True)
class _Prepared:
    """A run that only has to be done, and what it is about."""

    run: Run
    source: Scene | ScenePair
    product: ModelProduct
    outputs: Outputs
    tiling: tuple[int, int]


@contextmanager
def _prepared(request: Request, paths: Sequence[str | Path], name: str | None) -> Iterator[_Prepared]:
    """Open the scenes of a request and check everything that can be checked before the model is loaded."""
    model, settings = lazy_model(request), request.settings
    card = model.card
    if request.operation != "change" and card.dates == 2:
        raise GeoError(f"model '{card.name}' compares two dates; use `dynamicvis change BEFORE AFTER`")
    if request.operation == "change" and card.dates == 1:
        raise GeoError(
            f"model '{card.name}' is for {card.task_name} and not for change; "
            "use `dynamicvis predict`, or give another --model"
        )
    outputs = planned_outputs(request, scene_name(str(paths[0])) if name is None else name, card)
    with ExitStack() as stack:
        # A pair has the bounds of its first scene: the second may have another CRS.
        later = replace(settings, bounds=None)
        scenes = [
            stack.enter_context(_scene(path, card, later if number else settings)) for number, path in enumerate(paths)
        ]
        refuse_own_scenes(outputs, [file for scene in scenes for file in scene.files])
        if len(scenes) == 1:
            yield _prepare(scenes[0], scenes[0], None, model, outputs, settings)
        else:
            pair = stack.enter_context(ScenePair(*scenes, align=request.align))
            yield _prepare(pair, _OneDate(pair, 1), _OneDate(pair, 0), model, outputs, settings)


def _prepare(
    source: Scene | ScenePair,
    ground: Scene | _OneDate,
    before: _OneDate | None,
    model: TileModel,
    outputs: Outputs,
    settings: Settings,
) -> _Prepared:
    card = model.card
    tiling = settings.tiling(card.tile, card.overlap)
    family = product_of(card)
    grid = family.make_grid(card, source.height, source.width, *tiling)
    tags, layer = _tags(model, *tiling), layer_name(outputs.stem)
    product = family(
        card, Scenery(source, ground, before, grid, outputs.staged, layer, tags, settings.creation_options)
    )
    return _Prepared(Run(source, model, product, outputs, settings, tiling), source, product, outputs, tiling)


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


def _tags(model: TileModel, tile: int, overlap: int) -> dict[str, str]:
    card = {name: value for name, value in asdict(model.card).items() if name not in ("config", "stride")}
    return {
        "DYNAMICVIS_VERSION": __version__,
        "DYNAMICVIS_MODEL": model.card.name,
        "DYNAMICVIS_WEIGHTS_SHA256": getattr(model, "digest", "") or "not from a file",
        "DYNAMICVIS_CARD": json.dumps(card, ensure_ascii=False),
        "DYNAMICVIS_TILING": f"tile {tile}, overlap {overlap}",
    }
