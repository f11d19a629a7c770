"""Landsat change of Nanjing and Taizhou (Wu et al. 2014): 6 bands, pixels known to have changed or not, most unknown.

The source has a folder for every place with ``t1.tif``, ``t2.tif``, ``change.png`` and ``unchanged.png`` (255 where
known). One place is for the test; the lower part of the others is for validation.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder
from dynamicvis.data.preparation.pairs import CHANGED, UNKNOWN, PairWriter, read_binary, read_pair
from dynamicvis.files import listing

HELP = "Landsat change of Nanjing and Taizhou: 6 bands, sparse labels"
TEST_PLACES = ("Taizhou",)
VAL_SHARE = 0.3


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `prepare_landsat_cd`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with a folder for every place")
    parser.add_argument(
        "--test", nargs="+", default=TEST_PLACES, metavar="PLACE", help="places for the test (default: %(default)s)"
    )
    parser.add_argument("--tile", type=int, default=128, help="size of training tiles, pixels (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=64, help="distance between them (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    writer = prepare_landsat_cd(
        options.out,
        options.source,
        test=options.test,
        tile=options.tile,
        stride=options.stride,
        overwrite=options.overwrite,
    )
    return f"{options.out}: {writer.summary()}"


def prepare_landsat_cd(
    out: str | Path,
    source: str | Path,
    *,
    test: Sequence[str] = TEST_PLACES,
    tile: int = 128,
    stride: int = 64,
    overwrite: bool = False,
) -> PairWriter:
    """Write ``OUT/{train,val,test}/{A,B,label}/*.tif``; labels are 0, 255, and 128 where nothing is known.

    Args:
        out: folder to create.
        source: folder with the original files.
        test: places for the test.
        tile, stride: of the training places, pixels.
        overwrite: replace an existing folder.

    Returns:
        The writer, with the number of pairs by split.

    Raises:
        DataSourceError: a place is unknown, files do not fit each other, a pixel is said to have changed and not,
            the stride would leave pixels out, or ``out`` exists and ``overwrite`` is not set.
    """
    source = Path(source)
    if not 1 <= stride <= tile:
        raise DataSourceError(f"--stride must be from 1 to the tile's {tile} pixels, got {stride}")
    places = {path.parent.name: path.parent for path in listing(source, "*/t1.tif")}
    unknown = [name for name in test if name not in places]
    if unknown:
        raise DataSourceError(f"{source} has no place {unknown[0]!r}; it has {', '.join(places) or 'none'}")
    if set(places) <= set(test):
        raise DataSourceError(f"no place of {source} is left for training; name fewer with --test")
    with new_folder(out, overwrite) as partial:
        writer = PairWriter(partial, tile, stride)
        for name, folder in places.items():
            first, second = read_pair(folder / "t1.tif", folder / "t2.tif")
            changed, unchanged = (read_binary(folder / f"{kind}.png", first.shape) for kind in ("change", "unchanged"))
            if (changed & unchanged).any():
                row, column = np.argwhere(changed & unchanged)[0]
                raise DataSourceError(
                    f"{folder / 'change.png'} and unchanged.png both claim the pixel in row {row}, column {column}"
                )
            label = np.select([changed, unchanged], [CHANGED, 0], UNKNOWN).astype(np.uint8)
            if name in test:
                writer.write("test", name, first, second, label, tiled=False)
            else:
                writer.write_parts(name, first, second, label, VAL_SHARE)
    return writer
