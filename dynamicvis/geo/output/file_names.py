"""Which files a run writes, and what they are called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynamicvis.files import room_for_names, safe_name, same_name_key
from dynamicvis.geo.errors import GeoError
from dynamicvis.geo.output.vectors import VECTOR_SUFFIXES
from dynamicvis.geo.runs.journal import STAGED
from dynamicvis.geo.scene.reading import is_remote

RASTER, QUICKLOOK, PREVIEW = ".tif", ".png", ".html"
SUFFIXES = (RASTER, *VECTOR_SUFFIXES, QUICKLOOK, PREVIEW)

_SIDE_FILE = len(".aux.xml")  # bytes that readers add to a name for files of their own, as long as SQLite's "-journal"
# Bytes of the paths below the folder of the outputs, in which they are made; see `dynamicvis.geo.runs.journal`.
_WORK = 180
_SQLITE = 511  # bytes of the longest path that SQLite opens


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
    def staged(self) -> Outputs:
        """The same files while they are made, under short names that every library can open."""
        return replace(self, stem=STAGED)

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
    # os.path: Path.is_dir raises for names that are too long.
    if text.endswith(("/", "\\")) or os.path.isdir(path) or not path.suffix:  # noqa: PTH112
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
    default_formats: Sequence[str],
    *,
    formats: Sequence[str] = (),
    preview: bool = False,
    scores: bool = False,
    selection: bool = False,
) -> Outputs:
    """Files of a scene.

    Args:
        out: a folder, or a file whose suffix says what it is to hold.
        name: what the files are called in a folder; a safe name (`dynamicvis.files.safe_name`).
        default_formats: suffixes of the files in a folder, if the caller names none.
        formats: suffixes with or without a dot, for a folder.
        preview: also a page to look at.
        scores, selection: further rasters.

    Raises:
        GeoError: a format that is unknown, an unsafe name, or a name or path that is too long.
    """
    if is_remote(str(out)):
        raise GeoError(f"{out} is an address; outputs are written to a disk of this machine, choose a folder or file")
    if name != safe_name(name):
        raise GeoError(f"{name!r} is no name that files can be called by; give one such as {safe_name(name)!r}")
    if is_file_name(out):
        path = Path(out)
        if formats:
            raise GeoError(f"{path} names one file, whose suffix is its format; leave --format out, or give a folder")
        folder, stem = path.parent, path.stem
        suffixes: tuple[str, ...] = (path.suffix.lower(),)
    else:
        folder, stem = Path(out), name
        suffixes = tuple(dict.fromkeys(f".{given.lower().lstrip('.')}" for given in formats)) or tuple(default_formats)
    unknown = [suffix for suffix in suffixes if suffix not in SUFFIXES]
    if unknown:
        raise GeoError(f"'{unknown[0]}' is no known format; choose of {', '.join(SUFFIXES)}")
    if preview and PREVIEW not in suffixes:
        suffixes += (PREVIEW,)
    outputs = Outputs(folder, stem, suffixes, scores, selection)
    check_paths(folder, outputs.names)
    return outputs


def check_paths(folder: Path, names: Sequence[str]) -> None:
    """Refuse names and folders that are too long, or that no library of raster and vector files can open.

    Args:
        folder: of the outputs; it need not exist yet.
        names: of the files in it.

    Raises:
        GeoError: one of them is.
    """
    if "\0" in str(folder / names[0]):
        raise GeoError(f"{str(folder / names[0])!r} holds a zero byte, which no path has; choose another output")
    if str(folder.absolute()).startswith("/vsi"):
        raise GeoError(f"GDAL takes {folder} for a virtual folder; choose an output on a disk of this machine")
    try:
        "".join((str(folder), *names)).encode()
    except UnicodeEncodeError as error:
        raise GeoError(
            f"{folder / names[0]} holds bytes that are no UTF-8, which GDAL does not write; choose another output"
        ) from error
    of_name, of_path = room_for_names(folder)
    longest = max(names, key=_length)
    for part in folder.parts:
        if _length(part) > of_name:
            raise GeoError(f"{part} is too long for the name of a folder, {of_name} bytes; choose another output")
    if _length(longest) + _SIDE_FILE > of_name:
        raise GeoError(
            f"{longest} is too long for the name of a file: it has {_length(longest)} bytes, and with the side files "
            f"of readers {of_name - _SIDE_FILE} are possible; rename the scene, or name the file by --out"
        )
    if any(name.lower().endswith(".gpkg") for name in names):
        of_path = min(of_path, _SQLITE)
    whole = max(_length(str(folder.absolute())), _length(os.path.realpath(folder)))
    if whole + max(_WORK, 1 + _length(longest) + _SIDE_FILE) > of_path:
        raise GeoError(
            f"{folder / longest} lies too deep: its path has {whole + 1 + _length(longest)} bytes, and {of_path} are "
            "possible with those of unfinished work and side files; choose an output nearer to the root"
        )


def check_apart(planned: Mapping[str, Outputs], inputs: Iterable[str]) -> None:
    """Refuse outputs of several scenes that would take each other's place, or the place of a scene.

    Args:
        planned: the files of each scene, by its path.
        inputs: paths of all scenes.

    Raises:
        GeoError: there are such.
    """
    owners: dict[str, str] = {}
    for scene, outputs in planned.items():
        for path in outputs.paths:
            other = owners.setdefault(same_name_key(str(path)), scene)
            if other != scene:
                raise GeoError(
                    f"{other} and {scene} would both be written to {path}; run them one by one into folders of their "
                    "own"
                )
    files = {_identity(path): path for path in inputs}
    for outputs in planned.values():
        for path in outputs.paths:
            identity = _identity(path)
            if identity is not None and identity in files:
                other = "" if files[identity] == str(path) else f" ({files[identity]})"
                raise GeoError(f"{path} is the scene itself{other} and would be replaced; choose another output")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What is the same for all names of a file; None where there is no such file."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _length(name: str) -> int:
    return len(os.fsencode(name))
