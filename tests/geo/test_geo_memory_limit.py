"""Memory at its peak, of processes of their own: what does not grow with the scene, and what was promised."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from geo_processes import Nursery
from geo_scenes import UTM, write_raster
from rasterio.windows import Window

MB = 1 << 20


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def write_sparse(path: Path, size: int) -> Path:
    """A scene with a block of data in each 1024 rows, along the diagonal; all else was never written."""
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "nodata": 0} | UTM
    with rasterio.open(
        path, "w", tiled=True, blockxsize=256, blockysize=256, SPARSE_OK=True, compress="deflate", **profile
    ) as sink:
        for start in range(0, size, 1024):
            sink.write(np.full((1, 256, 256), 7, np.uint8), window=Window(start, start, 256, 256))
    return path


def test_the_peak_does_not_grow_with_the_scene(nursery: Nursery, tmp_path: Path) -> None:
    peaks = []
    # From a size on that fills all caches, GDAL's chunks of overviews among them.
    for size in (8192, 16384):
        scene = write_sparse(tmp_path / f"{size}.tif", size)
        result = nursery.run("run_sparse", scene=scene, out=tmp_path / f"{size}-out.tif", cache=4 * MB)
        assert result["status"] == 0, result
        peaks.append(result["peak"])
    assert max(peaks) <= 1.1 * min(peaks), [peak // MB for peak in peaks]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (1, 512, 1024), np.uint8)
    return write_raster(tmp_path_factory.mktemp("scene") / "site.tif", values)


def test_a_limit_lowers_the_batch_and_holds(nursery: Nursery, scene: Path, tmp_path: Path) -> None:
    hunger = 64 * MB
    refused = nursery.run("run_hungry", scene=scene, out=tmp_path / "no.tif", hunger=hunger, max_memory="64MB")
    assert refused["status"] == 1
    assert "64 MB of memory are too little even for one tile at a time" in refused["error"]
    assert not list(tmp_path.iterdir())
    takes = re.search(r"which takes (\d+) MB", refused["error"])
    assert takes is not None
    least = int(takes[1])
    batches = []
    for limit in (least + 2, least + 70, least + 300):
        result = nursery.run(
            "run_hungry", scene=scene, out=tmp_path / f"{limit}.tif", hunger=hunger, max_memory=f"{limit}MB"
        )
        assert result["status"] == 0, result
        assert result["peak"] <= limit * MB
        batches.append(result["batch"])
    assert batches == sorted(batches)
    assert batches[-1] == 4


VRT = """<VRTDataset rasterXSize="3072" rasterYSize="3072"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
LARGE_BLOCKS = {"tiled": True, "blockxsize": 3072, "blockysize": 3072, "compress": "deflate", "zlevel": 1}


@pytest.mark.parametrize("kind", ["pixel", "band", "jp2", "mosaic"])
def test_blocks_of_the_scene_count(nursery: Nursery, tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 3072, 3072), np.uint8)
    path = tmp_path / "site.tif"
    if kind == "jp2":
        values[:] = 7
        path = write_raster(
            tmp_path / "site.jp2", values, driver="JP2OpenJPEG", BLOCKXSIZE=3072, BLOCKYSIZE=3072, QUALITY=5
        )
    else:
        write_raster(path, values, interleave="band" if kind == "band" else "pixel", **LARGE_BLOCKS)
    if kind == "mosaic":
        path = tmp_path / "site.vrt"
        path.write_text(VRT.format(source="site.tif"))
    left, top = UTM["transform"].c, UTM["transform"].f
    bounds = (0, 0, 600, 400) if kind == "mosaic" else (left, top - 40, left + 60, top)
    options = {"batch_size": 1, "bounds": bounds}
    refused = nursery.run("run_hungry", scene=path, out=tmp_path / "no.tif", hunger=1, max_memory="64MB", **options)
    takes = re.search(r"which takes (\d+) MB", refused["error"])
    assert takes is not None, refused
    assert kind != "pixel" or "to decode the blocks that the scene is stored in" in refused["error"]
    limit = int(takes[1]) + 2
    result = nursery.run(
        "run_hungry", scene=path, out=tmp_path / "out.tif", hunger=1, max_memory=f"{limit}MB", **options
    )
    assert result["status"] == 0, result
    assert result["peak"] <= limit * MB
