"""Tar shards of images with annotated regions, from COCO boxes: what pretraining reads.

ANNOTATIONS is a COCO file and SOURCE the folder of its images; OUT is one split of a data set. The layout is described
in dynamicvis/data/shards.py. Images without an object are left out.
"""

from __future__ import annotations

import json
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from dynamicvis.data.coco import read_coco_file
from dynamicvis.data.preparation.detection import AnnotatedImage, annotated_images, coco_classes, ignored_regions
from dynamicvis.data.preparation.folder import DataSourceError, add_target_arguments, new_folder, source_errors
from dynamicvis.data.shards import META
from dynamicvis.files import listing

HELP = "tar shards of regions, from any COCO boxes"
SAMPLES = 8192


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO annotation file")
    parser.add_argument("--source", type=Path, required=True, help="folder of the images")
    add_shard_arguments(parser)


def add_shard_arguments(parser: ArgumentParser) -> None:
    """Add ``--samples``."""
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images a shard (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    with source_errors():
        content = read_coco_file(options.annotations)
    images, classes = annotated_images(content, options.source), coco_classes(content)
    with new_folder(options.out, options.overwrite) as folder:
        return f"{options.out}: {write_shards(folder, images, classes, options.samples)}"


def write_shards(folder: Path, images: Iterable[AnnotatedImage], classes: Sequence[str], samples: int = SAMPLES) -> str:
    """Fill a folder with shards and ``meta.json``.

    Images are shuffled, by a fixed seed, so that a reader which streams shards meets all classes in each.

    Args:
        folder: to fill.
        images: with their regions; those without one are left out.
        classes: names, in the order of the labels.
        samples: images a shard, at least 1.

    Returns:
        What was written, in words.

    Raises:
        DataSourceError: ``webdataset`` is not installed, two images have the same name, or no image has a region.
    """
    try:
        from webdataset import ShardWriter
    except ImportError as error:
        raise DataSourceError('shards are written by webdataset: pip install "dynamicvis[pretrain]"') from error
    everything = list(images)
    chosen = [image for image in everything if image.instances]
    names = [_key(image) for image in chosen]
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if repeated:
        raise DataSourceError(f"two images have the name {min(repeated)} in the shards; rename one of them")
    if not chosen:
        raise DataSourceError(f"none of the {len(everything)} images has a region; the annotations are incomplete")
    if samples < 1:
        raise DataSourceError(f"a shard needs at least one image, got --samples {samples}")
    random.Random(0).shuffle(chosen)
    regions = 0
    pattern = str(folder).replace("%", "%%") + "/%05d.tar"
    # A fixed time makes equal inputs give equal shards.
    with ShardWriter(pattern, maxcount=samples, maxsize=float("inf"), verbose=0, encoder=False, mtime=0) as writer:
        for image in tqdm(chosen, unit="image", disable=None):
            annotation = {
                "gt_bboxes": [list(item.box) for item in image.instances],
                "gt_bboxes_labels": [classes[item.label] for item in image.instances],
            }
            suffix = image.path.suffix[1:].lower()
            writer.write(
                {
                    "__key__": _key(image),
                    f"{suffix}.{suffix}": image.path.read_bytes(),
                    f"{suffix}.json": json.dumps(annotation).encode(),
                }
            )
            regions += len(image.instances)
    shards = len(listing(folder, "*.tar"))
    meta = {"num_samples": len(chosen), "num_shards": shards, "num_regions": regions, "classes": list(classes)}
    (folder / META).write_text(json.dumps(meta, indent=2) + "\n")
    left_out = len(everything) - len(chosen)
    return (
        f"{len(chosen)} images with {regions} regions in {shards} shards"
        + (f"; {left_out} without a region left out" if left_out else "")
        + ignored_regions(everything, "left out")
    )


def _key(image: AnnotatedImage) -> str:
    """Name in the shard: a WebDataset's key has no dot in its last part."""
    path = Path(image.name)
    return (path.parent / path.stem.replace(".", "_")).as_posix()
