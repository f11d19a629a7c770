"""Windows cut from Massachusetts Roads, named SCENE_ROW_COLUMN, split by scene: no place is in two splits."""

from __future__ import annotations

import random
import shutil
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from pathlib import Path

from dynamicvis.data.matching import match_by_name
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder, source_errors

HELP = "windows of Massachusetts Roads, split by scene"
SHARES = {"test": 0.2, "val": 0.2}  # of the scenes; the rest is for training
_SEED = 0


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `prepare_massachusetts_roads_windows`."""
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with images/ and masks/ of the same names")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    counts = prepare_massachusetts_roads_windows(options.source, options.out, options.overwrite)
    return f"{options.out}: windows by split " + ", ".join(f"{split} {count}" for split, count in counts.items())


def prepare_massachusetts_roads_windows(source: str | Path, out: str | Path, overwrite: bool = False) -> dict[str, int]:
    """Copy ``images/`` and ``masks/`` and write ``OUT/{train,val,test}.txt``, the names of each split.

    The scene is the name without its last two parts: ``10078735_15`` of ``10078735_15_1000_500``. A fifth of the
    scenes, drawn with a fixed seed, is for the test, and a fifth for validation.

    Args:
        source: folder with ``images/`` and ``masks/``.
        out: folder to create.
        overwrite: replace an existing folder.

    Returns:
        Number of windows by split.

    Raises:
        DataSourceError: an image lacks its mask, a name is of another kind, there are fewer than five scenes, or
            ``out`` exists and ``overwrite`` is not set.
    """
    source = Path(source)
    with source_errors():
        pairs = match_by_name(source / "images", source / "masks")
    scenes: dict[str, list[str]] = defaultdict(list)
    for image, _ in pairs:
        scene, *window = image.stem.rsplit("_", 2)
        if len(window) != 2 or not all(part.isdigit() for part in window):
            raise DataSourceError(f"{image} is not named SCENE_ROW_COLUMN, so its scene cannot be told")
        scenes[scene].append(image.stem)
    if len(scenes) < 5:
        raise DataSourceError(f"{source} has {len(scenes)} scenes; a split by scene needs at least five")
    order = random.Random(_SEED).sample(sorted(scenes), len(scenes))
    splits: dict[str, list[str]] = {}
    for split, share in SHARES.items():
        count = round(share * len(scenes))
        splits[split], order = sorted(name for scene in order[:count] for name in scenes[scene]), order[count:]
    splits["train"] = sorted(name for scene in order for name in scenes[scene])
    with new_folder(out, overwrite) as partial:
        for kind in ("images", "masks"):
            (partial / kind).mkdir()
        for image, mask in pairs:
            shutil.copy(image, partial / "images")
            shutil.copy(mask, partial / "masks")
        for split, names in splits.items():
            (partial / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return {split: len(splits[split]) for split in ("train", "val", "test")}
