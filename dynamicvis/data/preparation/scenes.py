"""Seeded list files for scene classification: a fraction of each class for training, the rest for testing."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder
from dynamicvis.files import listing

UCMERCED_CLASSES = (
    *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest"),
    *("freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass"),
    *("parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt"),
)
AID_CLASSES = (
    *("Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial", "DenseResidential"),
    *("Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential", "Mountain", "Park", "Parking"),
    *("Playground", "Pond", "Port", "RailwayStation", "Resort", "River", "School", "SparseResidential", "Square"),
    *("Stadium", "StorageTanks", "Viaduct"),
)
_SUFFIXES = (".tif", ".tiff", ".jpg", ".jpeg", ".png")


def add_scene_arguments(parser: ArgumentParser, train_fraction: float) -> None:
    """Arguments of `split_scenes`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder that holds one folder a class")
    parser.add_argument(
        "--train-fraction",
        type=float,
        default=train_fraction,
        help="of each class, what is for training and validation (default: %(default)s, the paper's)",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        help="of the training part of each class, what is kept for validation (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")


def run_scenes(options: Namespace, classes: Sequence[str]) -> str:
    """Split from parsed arguments; returns what was written."""
    counts = split_scenes(
        options.source,
        options.out,
        classes,
        train_fraction=options.train_fraction,
        val_fraction=options.val_fraction,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    return f"{options.out}: images by list " + ", ".join(f"{name} {count}" for name, count in counts.items())


def split_scenes(
    source: str | Path,
    out: str | Path,
    classes: Sequence[str],
    *,
    train_fraction: float,
    val_fraction: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write ``OUT/{train,val,trainval,test}.txt``, a line ``CLASS/FILE`` an image.

    ``trainval`` is ``train`` and ``val`` together. Every class is split on its own, so that one more image in one class
    changes no other's split.

    Args:
        source: folder with one folder a class.
        out: folder to create.
        classes: the folders' names.
        train_fraction: of each class, what is for training and validation; between 0 and 1.
        val_fraction: of that, what is for validation; at least one image a class.
        seed: of the split.
        overwrite: replace an existing folder.

    Returns:
        Number of images by list.

    Raises:
        DataSourceError: a class has no folder or too few images, a folder is no class, a fraction is out of range, or
            ``out`` exists and ``overwrite`` is not set.
    """
    for name, fraction in (("train", train_fraction), ("val", val_fraction)):
        if not 0 < fraction < 1:
            raise DataSourceError(f"--{name}-fraction must lie between 0 and 1, got {fraction}")
    lists: dict[str, list[str]] = {"train": [], "val": [], "trainval": [], "test": []}
    for name, files in _images(Path(source), classes).items():
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(files))
        last = round(len(files) * train_fraction)
        first = last - max(1, round(last * val_fraction))
        if first < 1 or last == len(files):
            raise DataSourceError(
                f"{Path(source) / name} holds {len(files)} images, too few to split them into training, validation "
                f"and test by {train_fraction} and {val_fraction}"
            )
        shuffled = [f"{name}/{files[index]}" for index in order]
        lists["train"] += sorted(shuffled[:first])
        lists["val"] += sorted(shuffled[first:last])
        lists["trainval"] += sorted(shuffled[:last])
        lists["test"] += sorted(shuffled[last:])
    with new_folder(out, overwrite) as partial:
        for name, lines in lists.items():
            (partial / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return {name: len(lines) for name, lines in lists.items()}


def _images(source: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Names of the images by class."""
    if not source.is_dir():
        raise DataSourceError(f"{source} is no folder; --source is the folder that holds one folder a class")
    folders = {path.name for path in listing(source) if path.is_dir()}
    missing, unknown = sorted(set(classes) - folders), sorted(folders - set(classes))
    if missing:
        raise DataSourceError(
            f"{source} lacks the folder of class {missing[0]!r} ({len(missing)} of {len(classes)} are missing); "
            "--source is the folder that holds one folder a class"
        )
    if unknown:
        raise DataSourceError(f"{source / unknown[0]} is no class of this data set; move it elsewhere")
    return {
        name: [path.name for path in listing(source / name) if path.suffix.lower() in _SUFFIXES] for name in classes
    }
