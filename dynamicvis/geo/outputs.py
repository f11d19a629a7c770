"""Which files a run writes, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.vectors import VECTOR_SUFFIXES

RASTER, QUICKLOOK, PREVIEW = ".tif", ".png", ".html"
SUFFIXES = (RASTER, *VECTOR_SUFFIXES, QUICKLOOK, PREVIEW)

_VECTORS_OF_OBJECTS = (".gpkg", ".geojson", QUICKLOOK)
_RASTER_AND_VECTORS = (RASTER, ".gpkg", QUICKLOOK)
_DEFAULTS = {
    "detection": _VECTORS_OF_OBJECTS,
    "instance_segmentation": _VECTORS_OF_OBJECTS,
    "segmentation": _RASTER_AND_VECTORS,
    "change": _RASTER_AND_VECTORS,
    "classification": _RASTER_AND_VECTORS,
    "embedding": (RASTER, ".parquet", QUICKLOOK),
}
_WITHOUT_RASTER = ("detection", "instance_segmentation")


@dataclass(frozen=True)
class Outputs:
    """The files of one scene.

    Attributes:
        folder: where they go.
        stem: what they are called.
        suffixes: which there are, of `SUFFIXES`.
        scores: a raster of class probabilities, ``STEM-scores.tif``.
        selection: a raster of where the backbone looked, ``STEM-selection.tif``.
    """

    folder: Path
    stem: str
    suffixes: tuple[str, ...]
    scores: bool = False
    selection: bool = False

    def name(self, suffix: str) -> str:
        """Name of the file of one suffix."""
        return f"{self.stem}{suffix}"

    @property
    def scores_name(self) -> str:
        """Name of the raster of class probabilities."""
        return f"{self.stem}-scores{RASTER}"

    @property
    def selection_name(self) -> str:
        """Name of the raster of where the backbone looked."""
        return f"{self.stem}-selection{RASTER}"

    @property
    def names(self) -> list[str]:
        """Names of all files."""
        further = [(self.scores, self.scores_name), (self.selection, self.selection_name)]
        return [*map(self.name, self.suffixes), *(name for wanted, name in further if wanted)]

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self.folder / name for name in self.names]

    @property
    def vectors(self) -> tuple[str, ...]:
        """The suffixes that are vector formats."""
        return tuple(suffix for suffix in self.suffixes if suffix in VECTOR_SUFFIXES)


def is_file_name(out: str | Path) -> bool:
    """Whether ``--out`` names a file and not a folder: it has a suffix, and no folder of this name exists.

    Raises:
        GeoError: the suffix is none that can be written.
    """
    text, path = str(out), Path(out)
    if text.endswith(("/", "\\")) or path.is_dir() or not path.suffix:
        return False
    if path.suffix.lower() not in SUFFIXES:
        raise GeoError(
            f"{path} has an unknown suffix; name a file with one of {', '.join(SUFFIXES)}, "
            "or a folder (with / at its end)"
        )
    return True


def plan_outputs(
    out: str | Path,
    name: str,
    task: str,
    *,
    formats: Sequence[str] = (),
    preview: bool = False,
    scores: bool = False,
    selection: bool = False,
) -> Outputs:
    """Files of a scene.

    Args:
        out: a folder, or a file whose suffix says what it is to hold.
        name: what the files are called in a folder.
        task: of the model.
        formats: suffixes with or without a dot, for a folder; by default those that suit the task.
        preview: also a page to look at.
        scores, selection: further rasters.

    Raises:
        GeoError: a format that is unknown or that the task does not have.
    """
    if is_file_name(out):
        path = Path(out)
        if formats:
            raise GeoError(f"{path} names one file, whose suffix is its format; leave --format out, or give a folder")
        folder, stem = path.parent, path.stem
        suffixes: tuple[str, ...] = (path.suffix.lower(),)
    else:
        folder, stem = Path(out), name
        suffixes = tuple(dict.fromkeys(f".{given.lower().lstrip('.')}" for given in formats)) or _DEFAULTS[task]
    unknown = [suffix for suffix in suffixes if suffix not in SUFFIXES]
    if unknown:
        raise GeoError(f"'{unknown[0]}' is no known format; choose of {', '.join(SUFFIXES)}")
    if preview and PREVIEW not in suffixes:
        suffixes += (PREVIEW,)
    if RASTER in suffixes and task in _WITHOUT_RASTER:
        raise GeoError(f"a model for {task.replace('_', ' ')} gives objects and no raster; choose a vector format")
    impossible = [suffix for suffix in suffixes if suffix in VECTOR_SUFFIXES and suffix != ".parquet"]
    if task == "embedding" and impossible:
        raise GeoError(f"{impossible[0]} cannot hold the vectors of an embedding; choose .parquet or .tif")
    if scores and task in (*_WITHOUT_RASTER, "embedding"):
        raise GeoError(f"a model for {task.replace('_', ' ')} has no scores of classes; leave --scores out")
    return Outputs(folder, stem, suffixes, scores, selection)
