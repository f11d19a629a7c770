"""From a scene to files: the function behind ``dynamicvis predict``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dynamicvis.geo.detect import Detections, Detector, Progress, detect_objects, tiling
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.models import openmmlab_for, usable_device
from dynamicvis.geo.publish import staged_outputs
from dynamicvis.geo.quicklook import write_quicklook
from dynamicvis.geo.sinks import write_geojson, write_geopackage
from dynamicvis.geo.source import Scene
from dynamicvis.geo.startup import quick_imports
from dynamicvis.model_card import ModelCard, find_model, read_card


@dataclass(frozen=True)
class DetectionModel:
    """A detector with its card, ready for any number of scenes.

    Attributes:
        card: what it expects and gives.
        detector: see `dynamicvis.geo.Detector`.
    """

    card: ModelCard
    detector: Detector


@dataclass(frozen=True)
class PredictResult:
    """What `predict` wrote.

    Attributes:
        geopackage, geojson, quicklook: paths of the files.
        counts: number of objects by class name, for the classes that were found.
        notes: sentences for the user about the scene and the result.
    """

    geopackage: Path
    geojson: Path
    quicklook: Path
    counts: dict[str, int]
    notes: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All files written."""
        return self.geopackage, self.geojson, self.quicklook

    @property
    def count(self) -> int:
        """Number of objects."""
        return sum(self.counts.values())


def load_model(name_or_path: str | Path, device: str = "cpu") -> DetectionModel:
    """Load a shipped model by its name, or a model file.

    Args:
        name_or_path: a name listed by ``dynamicvis models``, or a file.
        device: where it runs, such as ``"cpu"``.

    Raises:
        ModelFileError: the file is missing, damaged or holds another architecture.
        GeoError: the model does not detect objects, the device is not there, or OpenMMLab is not installed.
    """
    path = find_model(str(name_or_path))
    card = _detection_card(path)
    usable_device(device)
    with openmmlab_for(path), quick_imports(card):
        from dynamicvis.mm.inference import load_detector

        return DetectionModel(card, load_detector(path, device))


def predict(
    scene_path: str | Path,
    out_dir: str | Path,
    model: str | Path | DetectionModel = "trees",
    *,
    tile: int | None = None,
    overlap: int | None = None,
    batch_size: int = 4,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PredictResult:
    """Find the objects of a scene and write them as GeoPackage, GeoJSON and a quicklook PNG.

    The files are ``<scene stem>.gpkg``, ``.geojson`` and ``.png`` in ``out_dir``, which is made if needed. Either all
    three are written, or ``out_dir`` is left as it was. Scene and outputs are checked before the model is loaded.

    Args:
        scene_path: a raster with the bands, units and roughly the pixel size that the model's card names.
        out_dir: folder of the results.
        model: name of a shipped model, a model file, or a model from `load_model` to run on several scenes.
        tile, overlap: pixels; the card's if not given.
        batch_size: tiles in one call of the model, at least 1.
        device: as for `load_model`; not used with a loaded model.
        overwrite: replace files of an earlier run.
        progress: called with the number of tiles done and of all tiles, first with 0.

    Raises:
        GeoError: a scene, an option or an output folder that cannot be used.
        ModelFileError: a model file that cannot be used.
    """
    out_dir = Path(out_dir)
    card = model.card if isinstance(model, DetectionModel) else _detection_card(find_model(str(model)))
    tiling(card, tile, overlap)
    with Scene(scene_path, card) as scene:
        paths = [out_dir / f"{Path(scene.path).stem}.{suffix}" for suffix in ("gpkg", "geojson", "png")]
        for path in paths:
            if path.exists() and Path(scene.path).exists() and path.samefile(scene.path):
                raise GeoError(f"{path} is the scene itself and would be replaced; choose another --out-dir")
        with staged_outputs(out_dir, [path.name for path in paths], overwrite=overwrite) as staging:
            loaded = model if isinstance(model, DetectionModel) else load_model(model, device)
            try:
                found = detect_objects(
                    loaded.detector, scene, card, tile=tile, overlap=overlap, batch_size=batch_size, progress=progress
                )
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                raise GeoError(
                    f"{scene.path}: not enough memory for {batch_size} tiles at a time; "
                    "give a smaller --batch-size or --tile"
                ) from error
            write_geopackage(staging / paths[0].name, found, scene, card.classes)
            write_geojson(staging / paths[1].name, found, scene, card.classes)
            write_quicklook(staging / paths[2].name, found, scene, card)
        notes = [*scene.notes, *_result_notes(found, scene)]
    counts = Counter(card.classes[label] for label in found.labels)
    return PredictResult(paths[0], paths[1], paths[2], dict(counts.most_common()), tuple(notes))


def _result_notes(found: Detections, scene: Scene) -> list[str]:
    if found.tiles == 0:
        return [f"{scene.path} has no pixel with data (NoData everywhere): the result is empty"]
    return []


def _detection_card(path: Path) -> ModelCard:
    card = read_card(path)
    if card.task != "detection":
        raise GeoError(f"{path} is a model for {card.task}; `dynamicvis predict` needs one for detection")
    return card


def _out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error)
    )
