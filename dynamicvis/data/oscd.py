"""Where OSCD, the Onera Satellite Change Detection data set (Caye Daudt et al. 2018), keeps its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_lines
from dynamicvis.files import listing


def read_places(root: str | Path, split: str) -> tuple[Path, list[str]]:
    """Folder of the images of OSCD, and the places of a split.

    Raises:
        DataError: there is no such list, or it is no text.
    """
    root = Path(root)
    found = sorted(path for path in (root / f"{split}.txt", *listing(root, f"*/{split}.txt")) if path.is_file())
    if not found:
        raise DataError(
            f"neither {root} nor a folder in it has {split}.txt, which lists the places of OSCD; unpack its archives "
            "of images and labels there"
        )
    names = re.split(r"[,\s]+", " ".join(read_lines(found[0])))
    return found[0].parent, [name for name in names if name]


def place_files(place: Path, date: int, bands: Sequence[str] | None) -> list[Path]:
    """Files of one date of a place: its RGB preview, or one file a band, in the order of ``bands``.

    Raises:
        DataError: one is missing.
    """
    if bands is None:
        path = place / "pair" / f"img{date}.png"
        if not path.is_file():
            raise DataError(f"{path} does not exist; it is the RGB preview of {place.name} (or choose `bands`)")
        return [path]
    folder = place / f"imgs_{date}_rect"
    by_band = {path.stem.rsplit("_", 1)[-1]: path for path in listing(folder, "*.tif")}
    missing = [band for band in bands if band not in by_band]
    if missing:
        raise DataError(f"{folder} has no file of band {missing[0]}; it has {', '.join(by_band) or 'none at all'}")
    return [by_band[band] for band in bands]


def label_file(root: str | Path, place: str) -> Path:
    """Label of a place, 0 and 255, in whichever archive of labels has it.

    Raises:
        DataError: none has.
    """
    found = listing(root, f"*/{place}/cm/cm.png")
    if not found:
        raise DataError(
            f"no folder in {root} has {place}/cm/cm.png; unpack the archives of labels (training and test) there"
        )
    return found[0]
