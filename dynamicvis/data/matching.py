"""Images and masks that belong together by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamicvis.data.raster import DataError
from dynamicvis.data.text import read_lines
from dynamicvis.files import listing

SUFFIXES = frozenset({".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})


def images_by_name(folder: str | Path) -> dict[str, Path]:
    """Image files of a folder by name without suffix, in the order of the names.

    Raises:
        DataError: the folder is missing or holds no image, or two files differ in nothing but their suffix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; check data_root, and the layout that the README of the task describes")
    files: dict[str, Path] = {}
    for path in listing(folder):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise DataError(f"{files[path.stem]} and {path.name} have one name; remove one of them")
            files[path.stem] = path
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def match_by_name(
    images: str | Path, masks: str | Path, names: Sequence[str] | None = None, origin: str = "the list of names"
) -> list[tuple[Path, Path]]:
    """Image and mask of every name.

    Args:
        images: folder of the images.
        masks: folder of the masks, which have the names of their images and any suffix.
        names: which ones, without suffix; None takes all images.
        origin: where the names come from, for messages.

    Raises:
        DataError: an image lacks its mask or a name its image, no name is given, and see `images_by_name`.
    """
    image_files, mask_files = images_by_name(images), images_by_name(masks)
    if names is not None and not names:
        raise DataError(f"{origin} is empty: it names no image of {images}")
    pairs = []
    for name in image_files if names is None else names:
        if name not in image_files:
            raise DataError(f"{origin} names {name}, which {images} lacks")
        if name not in mask_files:
            raise DataError(f"{image_files[name]} has no mask: {masks} lacks {name} with any suffix")
        pairs.append((image_files[name], mask_files[name]))
    return pairs


def read_names(path: str | Path) -> list[str]:
    """Names in a text file, one a line, with or without the suffix of an image.

    Raises:
        DataError: there is no such file, or it is no text.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; it lists the images of a split, one a line")
    return [
        name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
        for name in read_lines(path)
        if name
    ]
