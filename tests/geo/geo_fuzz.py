"""Reads hundreds of damaged GeoTIFFs, and prints what came of them; a process of its own, for it may die.

Usage: python geo_fuzz.py FOLDER [SEED] [MUTATIONS]
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from geo_scenes import make_card, write_raster

from dynamicvis.geo import Extent, GeoError, Scene

MEMORY = 1 << 30  # bytes of address space beyond those of the imports
_TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "strips": {"dtype": "uint8"},
    "strips-lzw": {"dtype": "uint8", "compress": "lzw", "predictor": 2, "nodata": 0},
    "strips-deflate": {"dtype": "float32", "compress": "deflate", "predictor": 3, "nodata": -9999},
    "tiles": {"dtype": "uint16", "interleave": "pixel", **_TILED},
    "tiles-lzw": {"dtype": "float32", "compress": "lzw", **_TILED},
    "tiles-deflate": {"dtype": "uint8", "compress": "deflate", "interleave": "pixel", "nodata": 7, **_TILED},
    "bands-deflate": {"dtype": "int16", "compress": "deflate", "interleave": "band", "nodata": -1, **_TILED},
    "big-zstd": {"dtype": "uint16", "compress": "zstd", "BIGTIFF": "YES", **_TILED},
    "mask-deflate": {"dtype": "uint8", "compress": "deflate", "mask": True, **_TILED},
    "jpeg": {"dtype": "uint8", "compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **_TILED},
}


def make_whole(folder: Path) -> dict[str, bytes]:
    """The undamaged files, by name."""
    y, x = np.mgrid[:40, :50]
    smooth = np.stack([x + y + 1, 2 * x + 3, (x * y) % 90 + 2])
    files = {}
    for name, options in VARIANTS.items():
        profile = {key: value for key, value in options.items() if key not in ("dtype", "mask")}
        mask = smooth[0] > 20 if options.get("mask") else None
        path = write_raster(folder / f"{name}.tif", smooth.astype(options["dtype"]), mask, **profile)
        if "deflate" in name:
            with rasterio.open(path, "r+") as sink:
                sink.build_overviews([2, 4])
        files[name] = path.read_bytes()
    return files


def mutations(whole: bytes, generator: np.random.Generator, count: int) -> Iterator[tuple[str, bytes]]:
    """Cut off and altered versions of a file: half of the changes in the first 600 bytes, where the header is."""
    for place in sorted({0, 1, 3, 8, 9, *(len(whole) * step // (count // 3) for step in range(count // 3))}):
        yield f"cut at {place}", whole[:place]
    for index in range(count - count // 3):
        content = bytearray(whole)
        end = min(len(whole), 600) if index % 4 else len(whole)
        places = generator.integers(0, end, 1 if index % 2 else 4)
        for place in places:
            content[place] = content[place] ^ (1 << int(generator.integers(8))) if index % 3 else generator.choice(256)
        yield f"altered at {places.tolist()}", bytes(content)


def read_all(path: Path, bytes_only: bool) -> None:
    """What the engine does with a scene, as far as reading goes."""
    for card in (None, make_card()) if bytes_only else (None,):
        with Scene(path, card) as scene:
            scene.fingerprint()
            for window in (Extent(0, 0, 64, 64), Extent(30, 20, 62, 52)):
                values, valid = scene.read(window)
                assert np.isfinite(values).all()
                assert values.shape[1:] == valid.shape
            corner = Extent(scene.width - 20, scene.height - 20, scene.width, scene.height)
            scene.read(corner)
            if max(scene.width, scene.height) < 10000:
                scene.read_resampled(10, 12)


def main() -> None:
    """Read all mutations and print a summary as JSON."""
    folder = Path(sys.argv[1])
    generator = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 45
    warnings.simplefilter("ignore")
    whole = make_whole(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for name, content in whole.items():
        (folder / "damaged.tif").write_bytes(content)
        read_all(folder / "damaged.tif", VARIANTS[name]["dtype"] == "uint8")
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = (0.0, "")
    for name, content in whole.items():
        for what, damaged in mutations(content, generator, count):
            path = folder / "damaged.tif"
            path.write_bytes(damaged)
            print(name, what, file=sys.stderr, flush=True)  # the last line before a crash says where
            begin = time.perf_counter()
            try:
                read_all(path, VARIANTS[name]["dtype"] == "uint8")
                outcomes["read"] += 1
            except GeoError as error:
                outcomes["refused"] += 1
                if "\n" in str(error) or path.name not in str(error):
                    wrong.append(f"{name} {what}: {error!r}")
            except Exception as error:
                wrong.append(f"{name} {what}: {error!r}")
            slowest = max(slowest, (time.perf_counter() - begin, f"{name} {what}"))
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "slowest": slowest}))


if __name__ == "__main__":
    main()
