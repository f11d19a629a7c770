"""OSCD, Sentinel-2 change: tiles of the training places, a lower part of each for validation, whole test places.

The source is either the three archives of OSCD unpacked side by side, or a folder for every place with ``t1.tif``,
``t2.tif`` (any bands) and ``cm.png`` (0, 255). Test places are kept whole. The others are cut in two along a row: the
upper part is for training, in tiles; the lower one, for validation, is one image, so that the metric sees something of
every kind of place. No pixel is in two splits, and none is left out. Whole images are for slide inference, which counts
every pixel once; tiles that overlap would count some of them several times.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynamicvis.data.oscd import label_file, place_files, read_places
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder
from dynamicvis.data.preparation.pairs import CHANGED, PairWriter, match_dates, read_binary, read_pair
from dynamicvis.files import listing

HELP = "OSCD (Sentinel-2 change): tiles of the training places, lower parts of them for validation, whole test places"
VAL_SHARE = 0.25


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `prepare_oscd`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with the unpacked archives, or one a place")
    parser.add_argument(
        "--bands",
        nargs="+",
        metavar="B",
        help="names of bands, such as B04 B03 B02, from the archives (default: their RGB previews)",
    )
    parser.add_argument(
        "--val-share",
        type=float,
        default=VAL_SHARE,
        metavar="SHARE",
        help="lower part of every training place that is for validation, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--test", nargs="+", metavar="PLACE", help="places for the test (default: those of the archives' test.txt)"
    )
    parser.add_argument(
        "--match-dates",
        action="store_true",
        help="stretch every band of the second date to that of the first, over the whole place",
    )
    parser.add_argument("--tile", type=int, default=256, help="size of training tiles, pixels (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=128, help="distance between them (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    writer = prepare_oscd(
        options.out,
        options.source,
        bands=options.bands,
        val_share=options.val_share,
        test=options.test,
        matched=options.match_dates,
        tile=options.tile,
        stride=options.stride,
        overwrite=options.overwrite,
    )
    return f"{options.out}: {writer.summary()}"


def prepare_oscd(
    out: str | Path,
    source: str | Path,
    *,
    bands: Sequence[str] | None = None,
    val_share: float = VAL_SHARE,
    test: Sequence[str] | None = None,
    matched: bool = False,
    tile: int = 256,
    stride: int = 128,
    overwrite: bool = False,
) -> PairWriter:
    """Write ``OUT/{train,val,test}/{A,B,label}/*.tif``; labels are 0 and 255.

    Args:
        out: folder to create.
        source: folder with the original files.
        bands: names of bands to take from the archives; None takes their RGB previews.
        val_share: of the rows of every training place, how many are for validation, from below: 0 <= share < 1.
        test: places for the test; None takes those that the archives name.
        matched: bring the second date to the first over the whole place, see `match_dates`; labels take no part.
        tile, stride: of the training places, pixels.
        overwrite: replace an existing folder.

    Returns:
        The writer, with the number of pairs by split.

    Raises:
        DataSourceError: a place is unknown, none is left for training, files are missing or do not fit each other, the
            share is out of range, the stride would leave pixels out, or ``out`` exists and ``overwrite`` is not set.
    """
    source = Path(source)
    if not 1 <= stride <= tile:
        raise DataSourceError(f"--stride must be from 1 to the tile's {tile} pixels, got {stride}")
    if not 0 <= val_share < 1:
        raise DataSourceError(f"--val-share must be at least 0 and below 1, got {val_share}")
    places = _find_places(source, bands)
    test = _test_places(source, places, test)
    with new_folder(out, overwrite) as partial:
        writer = PairWriter(partial, tile, stride)
        for name, folder in places.items():
            first, second, changed = _read_place(source, folder, bands)
            if matched:
                second = match_dates(second, first)
            label = np.where(changed, CHANGED, 0).astype(np.uint8)
            if name in test:
                writer.write("test", name, first, second, label, tiled=False)
            else:
                writer.write_parts(name, first, second, label, val_share)
    return writer


def _find_places(source: Path, bands: Sequence[str] | None) -> dict[str, Path]:
    """Folder of every place, by name."""
    simple = {path.parent.name: path.parent for path in listing(source, "*/t1.tif")}
    if simple:
        if bands is not None:
            raise DataSourceError("--bands chooses among the archives' files; a place with t1.tif has its bands in it")
        return simple
    images, training = read_places(source, "train")
    return {name: images / name for name in (*training, *read_places(source, "test")[1])}


def _test_places(source: Path, places: dict[str, Path], test: Sequence[str] | None) -> Sequence[str]:
    """Places for the test, known ones, that leave some for training."""
    if test is None:
        if any((folder / "t1.tif").is_file() for folder in places.values()):
            raise DataSourceError(f"{source} has no list of test places; name them with --test")
        test = read_places(source, "test")[1]
    unknown = [name for name in test if name not in places]
    if unknown:
        raise DataSourceError(f"{source} has no place {unknown[0]!r}; it has {', '.join(places)}")
    if set(places) <= set(test):
        raise DataSourceError(f"no place of {source} is left for training; name fewer with --test")
    return test


def _read_place(source: Path, folder: Path, bands: Sequence[str] | None) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    if (folder / "t1.tif").is_file():
        first, second = read_pair(folder / "t1.tif", folder / "t2.tif")
        return first, second, read_binary(folder / "cm.png", first.shape)
    files = [place_files(folder, date, bands) for date in (1, 2)]
    pairs = [read_pair(first, second) for first, second in zip(*files, strict=True)]
    shapes = {pair[0].shape[:2]: path for pair, path in zip(pairs, files[0], strict=True)}
    if len(shapes) > 1:
        raise DataSourceError(
            f"{' and '.join(map(str, shapes.values()))} differ in size; all bands must lie on one grid"
        )
    dates = [np.concatenate([pair[date] for pair in pairs], axis=2) for date in (0, 1)]
    return dates[0], dates[1], read_binary(label_file(source, folder.name), dates[0].shape)
