"""Benchmarks of the GeoTIFF engine: ``geotiff identity``, ``overhead``, ``memory``, ``startup``, ``overlap``.

Each adds one part, with hardware, versions and commit of its own, to a JSON file; the parts of earlier runs stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import torch
from rasterio.windows import Window

from benchmarking.environment import describe_environment
from benchmarking.geotiff_overlap import overlap_curve, plot_overlap
from benchmarking.geotiff_processes import in_fresh_process, same
from benchmarking.geotiff_scenes import BLOCK, scene_for, sparse_scene, textured_scene
from benchmarking.timing import summarise
from dynamicvis.geo import Settings, load_model, map_raster, predict
from dynamicvis.model_card import find_model, read_card

TILE, OVERLAP = 1024, 128
_OURS = "map_raster"
_DEFLATE = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER"}
_TILED = {"driver": "GTiff", "TILED": "YES", "BLOCKXSIZE": BLOCK, "BLOCKYSIZE": BLOCK, **_DEFLATE}
_THREADS = {"NUM_THREADS": "ALL_CPUS"}
# rasterio.shutil.copy is GDALCreateCopy, as gdal_translate; rasterio's wheels come without the program.
RIVALS: Mapping[str, Mapping[str, Any]] = {
    "gdal_translate, tiled, deflate": _TILED,
    "the same, all threads": {**_TILED, **_THREADS},
    "GDAL's COG driver, all threads": {"driver": "COG", **_DEFLATE, **_THREADS},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``geotiff``."""
    parts = parser.add_subparsers(dest="part", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, required=True, help="file to add the part to")
    shared.add_argument("--work", type=Path, help="folder for scenes and results (default: a temporary one)")

    def add(name: str, text: str, function: Callable[[argparse.Namespace, Path], dict[str, Any]]) -> Any:
        part = parts.add_parser(name, help=text, description=text, parents=[shared])
        part.set_defaults(function=function)
        return part

    speed = add("identity", "the identity over a made scene, beside GDAL's copy of it", identity)
    speed.add_argument("--size", type=int, default=16384, help="edge of the scene, pixels (default: %(default)s)")
    speed.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    overhead_parser = add("overhead", "time of a whole run against the time inside the model", overhead)
    overhead_parser.add_argument("--models", nargs="+", required=True, help="names or model files")
    overhead_parser.add_argument("--scene", type=Path, required=True, help="real scene, mirrored to --size")
    overhead_parser.add_argument("--size", type=int, default=4096, help="edge, pixels (default: %(default)s)")
    overhead_parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    peak = add("memory", "peak resident memory over the size of a sparse scene, in fresh processes", memory)
    peak.add_argument("--sizes", type=int, nargs="+", default=[8192, 65536], help="edges (default: %(default)s)")
    peak.add_argument("--model", help="name or model file; also run it, and not only the identity")
    first = add("startup", "from the start of `dynamicvis predict` to its first tile", startup)
    first.add_argument("--model", default="trees", help="name or model file (default: %(default)s)")
    first.add_argument("--repeats", type=int, default=5, help="runs (default: %(default)s)")
    curve = add("overlap", "segmentation by tiles against one forward over the whole scene; also a picture", overlap)
    curve.add_argument("--model", required=True, help="model file for segmentation")
    curve.add_argument("--scene", type=Path, required=True, help="real scene, brought to the model's resolution")
    curve.add_argument("--tile", type=int, default=512, help="pixels (default: %(default)s)")
    curve.add_argument("--overlaps", type=int, nargs="+", default=[0, 32, 64, 128, 256], help="(default: %(default)s)")
    curve.add_argument("--plot", type=Path, required=True, help="picture to write")


def run(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run one part; returns the exit code.

    Raises:
        OSError: a file or folder cannot be used.
        ValueError: a model or scene that does not suit, or results that are wrong.
    """
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        part = options.function(options, Path(folder))
    environment = describe_environment(torch.device("cpu"))
    environment["gdal"] = rasterio.__gdal_version__
    content = json.loads(options.json.read_text()) if options.json.exists() else {}
    words = [_without_folders(word) for word in command]
    content[options.part] = {**part, "command": words, "environment": environment}
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(part, indent=1))
    if options.part == "overlap":
        plot_overlap(options.json, options.plot)
    return 0


def identity(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The engine with a function that does nothing, and GDAL, in turn; each begins with no dirty pages."""
    scene = textured_scene((options.work or folder) / f"textured-{options.size}.tif", options.size)
    out = folder / "out.tif"
    calls: dict[str, Callable[[], object]] = {
        _OURS: lambda: map_raster(same, scene, out, tile=TILE, overlap=OVERLAP, out_dtype="uint8", resume=False)
    }
    for name, profile in RIVALS.items():
        calls[name] = lambda profile=profile: rasterio.shutil.copy(scene, out, **profile)  # type: ignore[misc]
    scene.read_bytes()  # into the page cache
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            out.unlink(missing_ok=True)
            os.sync()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
            if name == _OURS and len(seconds[name]) == 1:
                _refuse_differences(scene, out)
    timings = {name: summarise(values) for name, values in seconds.items()}
    megapixels = options.size**2 / 1e6
    return {
        "size": options.size,
        "tile": TILE,
        "overlap": OVERLAP,
        "megapixels_per_second": {name: megapixels / timing.median for name, timing in timings.items()},
        "speed_against": {name: timings[name].median / timings[_OURS].median for name in RIVALS},
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
    }


def _refuse_differences(scene: Path, out: Path) -> None:
    with rasterio.open(scene) as source, rasterio.open(out) as result:
        for top in range(0, source.height, TILE):
            window = Window(0, top, source.width, min(TILE, source.height - top))
            if not np.array_equal(source.read(window=window), result.read(window=window)):
                raise ValueError(f"the identity changed pixels in rows {top} to {top + TILE}: no speed is given")


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Whole runs with a model that is loaded and warm: the main file of its task alone, and all files of a folder."""
    found: dict[str, Any] = {}
    for name in options.models:
        model = load_model(name)
        card = model.card
        scene = scene_for(card, options.scene, folder / f"{card.name}.tif", options.size)
        model(np.zeros((4, len(card.bands), card.tile, card.tile), np.float32))
        main = "tif" if card.task in ("segmentation", "classification") else "gpkg"
        found[f"{card.name} ({card.task.replace('_', ' ')})"] = {
            "tile": card.tile,
            "overlap": card.overlap,
            main: _timed(model, scene, folder, (main,), options.repeats),
            "all files": _timed(model, scene, folder, (), options.repeats),
        }
    return {"scene": options.scene.name, "size": options.size, "models": found}


def _timed(model: Any, scene: Path, folder: Path, formats: Sequence[str], repeats: int) -> dict[str, Any]:
    settings = Settings(formats=formats, overwrite=True, resume=False)
    runs = []
    for _ in range(repeats):
        os.sync()
        start = time.perf_counter()
        times = predict(scene, folder / "out", model, settings=settings).times
        total = time.perf_counter() - start
        assert times is not None
        runs.append({"total_s": total, "model_s": times.model, "tiles_s": times.total, "tiles": times.tiles})
    ratios = sorted(run["total_s"] / run["model_s"] for run in runs)
    return {
        "total_against_model": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
        "runs": runs,
    }


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Resident memory at its peak, of the whole process."""
    card = None if options.model is None else read_card(find_model(options.model))
    points = []
    for size in options.sizes:
        scene = sparse_scene(folder / f"sparse-{size}.tif", size, card.gsd if card else 0.1)
        points.append({"run": "identity", "size": size, **in_fresh_process("map", str(scene), str(folder / "out.tif"))})
        (folder / "out.tif").unlink()
        if card:
            measured = in_fresh_process("predict", str(scene), str(folder / f"out-{size}"), options.model)
            points.append({"run": card.name, "size": size, **measured})
    runs = {point["run"]: [other["peak_mib"] for other in points if other["run"] == point["run"]] for point in points}
    return {"largest_against_smallest": {name: peaks[-1] / peaks[0] for name, peaks in runs.items()}, "points": points}


def startup(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds from the start of the process; the first run warms up the disk's cache and is not counted."""
    card = read_card(find_model(options.model))
    scene = textured_scene(folder / "scene.tif", 2 * card.tile)
    runs = [
        in_fresh_process("first-tile", str(scene), str(folder / f"out-{index}"), options.model)
        for index in range(options.repeats + 1)
    ][1:]
    events = {event: asdict(summarise([run[event] for run in runs])) for event in ("begins", "ends")}
    return {"model": card.name, "seconds_until_first_batch": events}


def overlap(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The curve; see `benchmarking.geotiff_overlap`."""
    card = read_card(find_model(options.model))
    scene = scene_for(card, options.scene, folder / "scene.tif")
    with rasterio.open(scene) as dataset:
        size = {"width": dataset.width, "height": dataset.height}
    points = overlap_curve(find_model(options.model), scene, options.tile, options.overlaps, folder)
    return {"model": card.name, "scene": options.scene.name, **size, "tile": options.tile, "points": points}


def _without_folders(word: str) -> str:
    """An argument as the results hold it: of a path on this machine only the name means something elsewhere."""
    return Path(word).name if Path(word).is_absolute() else word
