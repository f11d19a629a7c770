"""Reads hundreds of damaged rasters, and prints what came of them; a process of its own, for it may die.

Files are cut off, bytes are altered, and in TIFFs whole entries of the directory: type, count and value of tags. What
is cut off must be refused or give the right pixels. All else may give any pixels, or a `GeoError` of one sentence.
Memory is bounded, and the slowest file is named. The suite runs some hundred cases, and the command below with SEED and
500 MUTATIONS of each file some ten thousand.

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
import rasterio.shutil
from geo_scenes import make_card, write_raster

from dynamicvis.geo import Extent, GeoError, Scene, map_raster
from dynamicvis.geo.info import describe_scene

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
# Other formats: driver, creation options, and which of its files is damaged.
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "picture.png": ("PNG", {}, "picture.png"),
    "picture.jpg": ("JPEG", {}, "picture.jpg"),
    "picture.webp": ("WEBP", {"LOSSLESS": "YES"}, "picture.webp"),
    "picture.bmp": ("BMP", {}, "picture.bmp"),
    "wavelet.jp2": ("JP2OpenJPEG", {"REVERSIBLE": "YES", "QUALITY": "100"}, "wavelet.jp2"),
    "erdas.img": ("HFA", {"COMPRESSED": "YES"}, "erdas.img"),
    "nitf.ntf": ("NITF", {}, "nitf.ntf"),
    "envi.dat": ("ENVI", {}, "envi.dat"),
    "header.dat": ("ENVI", {}, "header.hdr"),
    "raw.bil": ("EHdr", {}, "raw.hdr"),
    "mosaic.vrt": ("VRT", {}, "mosaic.vrt"),
}
_HOSTILE = (0, 1, 2, 3, 7, 8, 255, 256, 32773, 34712, 50000, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_TAIL = {"erdas.img"}  # GDAL reads this without the last of its bands, when its last bytes are missing


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


def make_others(folder: Path) -> dict[str, bytes]:
    """The undamaged files of other formats; those that GDAL cannot write are left out."""
    y, x = np.mgrid[:40, :50]
    plain = write_raster(folder / "plain.tif", np.stack([x + y + 1, 2 * x + 3, (x * y) % 90 + 2]).astype(np.uint8))
    files = {}
    for name, (driver, options, damaged) in OTHERS.items():
        rasterio.shutil.copy(plain, folder / name, driver=driver, **options)
        files[name] = (folder / damaged).read_bytes()
    return files


def altered_tags(whole: bytes, generator: np.random.Generator, count: int) -> Iterator[tuple[str, bytes]]:
    """Versions of a TIFF with another type, count or value of one to three entries of its first directory."""
    big = whole[2] == 43
    start = int.from_bytes(whole[8:16] if big else whole[4:8], "little")
    head, size, wide = (8, 20, 8) if big else (2, 12, 4)
    entries = int.from_bytes(whole[start : start + head], "little")
    for _ in range(count):
        content, what = bytearray(whole), []
        for _ in range(int(generator.integers(1, 4))):
            index = int(generator.integers(entries))
            place = start + head + index * size
            value = int(generator.choice([*_HOSTILE, len(whole), len(whole) - 1, start]))
            part, length = [(2, 2), (4, wide), (4 + wide, wide), (4 + wide, 2)][int(generator.integers(4))]
            content[place + part : place + part + length] = (value % (1 << 8 * length)).to_bytes(length, "little")
            what.append(f"{int.from_bytes(whole[place : place + 2], 'little')}+{part}={value}")
        yield f"tags {what}", bytes(content)


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


def read_all(path: Path, bytes_only: bool) -> bytes:
    """What the engine does with a scene, as far as reading goes; returns the pixels of its first window."""
    pixels = b""
    for card in (None, make_card()) if bytes_only else (None,):
        with Scene(path, card) as scene:
            scene.fingerprint()
            for window in (Extent(0, 0, 64, 64), Extent(30, 20, 62, 52)):
                values, valid = scene.read(window)
                assert np.isfinite(values).all()
                assert values.shape[1:] == valid.shape
                pixels = pixels or values.tobytes() + valid.tobytes()
            corner = Extent(scene.width - 20, scene.height - 20, scene.width, scene.height)
            scene.read(corner)
            if max(scene.width, scene.height) < 10000:
                scene.read_resampled(10, 12)
    return pixels


def use(path: Path) -> None:
    """What a user does with a raster: look at it, map it."""
    if describe_scene(path).width * describe_scene(path).height < 1 << 20:
        map_raster(lambda x: x, path, path.parent / "mapped.tif", tile=64, overlap=8, overwrite=True, resume=False)


def main() -> None:
    """Read all mutations and print a summary as JSON."""
    folder = Path(sys.argv[1])
    generator = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 45
    warnings.simplefilter("ignore")
    tiffs = {f"{name}.tif": content for name, content in make_whole(folder).items()}
    whole = tiffs | make_others(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = (0.0, "")
    for name, content in whole.items():
        bytes_only = VARIANTS.get(Path(name).stem, {"dtype": "uint8"})["dtype"] == "uint8"
        scene, damaged = folder / name, folder / OTHERS.get(name, ("", {}, name))[2]
        right = read_all(scene, bytes_only)
        changes = [*mutations(content, generator, count)]
        changes += altered_tags(content, generator, count) if name in tiffs else []
        for number, (what, broken) in enumerate(changes):
            damaged.write_bytes(broken)
            print(name, what, file=sys.stderr, flush=True)  # the last line before a crash says where
            begin = time.perf_counter()
            try:
                pixels = read_all(scene, bytes_only)
                if number % 4 == 0:
                    use(scene)
                outcomes["read"] += 1
                if what.startswith("cut") and pixels != right and damaged == scene and name not in _TAIL:
                    wrong.append(f"{name} {what}: other pixels than the whole file")
            except GeoError as error:
                outcomes["refused"] += 1
                if "\n" in str(error) or not {scene.name, damaged.name, "mapped.tif"} & set(_names(str(error))):
                    wrong.append(f"{name} {what}: {error!r}")
            except Exception as error:
                wrong.append(f"{name} {what}: {error!r}")
            slowest = max(slowest, (time.perf_counter() - begin, f"{name} {what}"))
        damaged.write_bytes(content)
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "slowest": slowest}))


def _names(message: str) -> list[str]:
    """The file names of a message."""
    return [Path(word.strip(",;:()'")).name for word in message.split()]


if __name__ == "__main__":
    main()
