"""sen2ships: ships in seven Sentinel-2 scenes of ports, GeoTIFF of 16 bits, bands B02, B03, B04 and B08.

SOURCE has the scenes (``algiers.tif``, ...) and ``annotations.json``: COCO boxes and masks by scene. Scenes are cut
into overlapping tiles, GeoTIFFs as well. A ship cut by the border of a tile keeps the part inside, and is dropped where
less than ``MIN_VISIBLE`` of its box is left. Splits are by place, never by tile.
"""

from __future__ import annotations

import json
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window, transform

from dynamicvis.data.coco import decode_mask
from dynamicvis.data.orientation import orientation
from dynamicvis.data.preparation.detection import AnnotatedImage, Instance, add_image, read_coco
from dynamicvis.data.preparation.folder import CocoWriter, DataSourceError, add_target_arguments, new_folder
from dynamicvis.raster_files import RasterFileError, reading
from dynamicvis.tiling import Extent, windows

HELP = "sen2ships, ships in Sentinel-2 scenes of four 16-bit bands"
CLASSES = ("ship",)
BANDS = ("B02", "B03", "B04", "B08")
PLACES = {
    "train": ("athens", "cartagena", "gdynia", "hedland"),
    "val": ("algiers",),
    "test": ("durban", "klang"),
}
MIN_VISIBLE = 0.4


def add_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    parser.add_argument("--source", type=Path, required=True, help="folder with the scenes and annotations.json")
    parser.add_argument("--tile", type=int, default=256, help="edge of a tile, pixels (default: %(default)s)")
    parser.add_argument("--overlap", type=int, default=64, help="least overlap of tiles, pixels (default: %(default)s)")


def run(options: Namespace) -> str:
    """Prepare from parsed arguments; returns what was written."""
    if not 0 <= options.overlap < options.tile:
        raise DataSourceError(f"--overlap {options.overlap} must be at least 0 and less than --tile {options.tile}")
    scenes = {Path(scene.name).stem: scene for scene in _read_scenes(options.source)}
    summary = []
    with new_folder(options.out, options.overwrite) as folder:
        for name in ("images", "annotations"):
            (folder / name).mkdir()
        for split, places in PLACES.items():
            writer = CocoWriter(CLASSES)
            for place in places:
                for tile in cut_scene(scenes[place], options.tile, options.overlap, folder / "images"):
                    add_image(writer, tile)
            tiles, regions = len(writer.content["images"]), writer.content["annotations"]
            crowds = sum(region["iscrowd"] for region in regions)
            ships = len(regions) - crowds
            if not ships:
                raise DataSourceError(
                    f"split '{split}' ({', '.join(places)}) has no ship; the annotations are incomplete"
                )
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(writer.content))
            to_ignore = f" and {crowds} crowd regions to be ignored" if crowds else ""
            summary.append(f"{split} {tiles} tiles with {ships} ships{to_ignore}")
    return f"{options.out}: " + ", ".join(summary)


def cut_scene(scene: AnnotatedImage, tile: int, overlap: int, out: Path) -> list[AnnotatedImage]:
    """Write the tiles of a scene as ``OUT/PLACE_LEFT_TOP.tif``, and return them with their ships.

    Args:
        scene: a scene with masks.
        tile, overlap: pixels.
        out: folder.

    Raises:
        DataSourceError: the scene lacks one of ``BANDS``, is to be turned, or cannot be read.
    """
    tiles = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with reading(scene.path) as source:
                if orientation(source, scene.path) != 1:
                    raise DataSourceError(
                        f"{scene.path} has no georeference and says that it is to be turned (orientation); store its "
                        "pixels as they are to be shown"
                    )
                missing = [band for band in BANDS if band not in source.descriptions]
                if missing:
                    raise DataSourceError(
                        f"{scene.path} has no band described as {missing[0]}, but {source.descriptions}; name its "
                        "bands in their descriptions"
                    )
                numbers = [source.descriptions.index(band) + 1 for band in BANDS]
                for extent in windows(scene.height, scene.width, tile, tile - overlap):
                    name = f"{Path(scene.name).stem}_{extent.left}_{extent.top}.tif"
                    _write_tile(source, numbers, extent, out / name)
                    width, height = extent.right - extent.left, extent.bottom - extent.top
                    ships, crowds = cut_instances(scene, extent), _cut(scene.ignored, extent, 0.0)
                    tiles.append(AnnotatedImage(out / name, name, width, height, ships, crowds))
    except RasterFileError as error:
        raise DataSourceError(str(error)) from error
    except RasterioError as error:
        raise DataSourceError(f"{scene.path} cannot be read ({error}); get it anew") from error
    return tiles


def cut_instances(scene: AnnotatedImage, extent: Extent) -> tuple[Instance, ...]:
    """Ships of a scene in a window of it, in pixels of the window."""
    return _cut(scene.instances, extent, MIN_VISIBLE)


def _cut(instances: Sequence[Instance], extent: Extent, visible: float) -> tuple[Instance, ...]:
    """Those of which at least the share ``visible`` of the box lies in a window."""
    cut = []
    for item in instances:
        left, top, right, bottom = item.box
        inside = (
            max(left, extent.left) - extent.left,
            max(top, extent.top) - extent.top,
            min(right, extent.right) - extent.left,
            min(bottom, extent.bottom) - extent.top,
        )
        width, height = inside[2] - inside[0], inside[3] - inside[1]
        if min(width, height) <= 0 or width * height < visible * (right - left) * (bottom - top):
            continue
        mask = decode_mask(item.segmentation)[extent.top : extent.bottom, extent.left : extent.right]
        if mask.any():
            cut.append(Instance(inside, item.label, encode_mask(mask), float(mask.sum())))
    return tuple(cut)


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding of a mask (H, W)."""
    flat = mask.T.reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(starts, prepend=0, append=len(flat))
    return {"counts": runs.tolist(), "size": list(mask.shape)}


def _read_scenes(source: Path) -> list[AnnotatedImage]:
    path = source / "annotations.json"
    scenes = read_coco(path, source, CLASSES)
    names = {Path(scene.name).stem for scene in scenes}
    missing = [place for places in PLACES.values() for place in places if place not in names]
    if missing:
        raise DataSourceError(f"{path} lists no scene of {missing[0]}; the data set has {', '.join(sorted(names))}")
    for scene in scenes:
        for item in (*scene.instances, *scene.ignored):
            if not isinstance(item.segmentation, Mapping):
                raise DataSourceError(f"{path}: a ship in {scene.name} has no mask as run lengths")
    return scenes


def _write_tile(source: Any, numbers: list[int], extent: Extent, path: Path) -> None:
    window = Window(extent.left, extent.top, extent.right - extent.left, extent.bottom - extent.top)
    profile = dict(
        driver="GTiff",
        width=window.width,
        height=window.height,
        count=len(numbers),
        dtype=source.dtypes[0],
        crs=source.crs,
        transform=transform(window, source.transform),
        compress="deflate",
        predictor=2,
    )
    with rasterio.open(path, "w", **profile) as target:
        target.write(source.read(numbers, window=window))
        target.descriptions = BANDS
