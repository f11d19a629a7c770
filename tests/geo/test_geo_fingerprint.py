"""What identifies a scene: a change that alters a pixel or its place is noticed, and one that alters nothing is not."""

from __future__ import annotations

import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import UTM, write_raster
from numpy.typing import NDArray

from dynamicvis.geo.scene import fingerprint as module
from dynamicvis.geo.scene.source import Scene

AUX = "<PAMDataset><SRS>EPSG:{code}</SRS><GeoTransform>5, 1, 0, 9, 0, -1</GeoTransform></PAMDataset>"
STATISTICS = (
    '<PAMDataset><PAMRasterBand band="1"><Histograms><HistItem/></Histograms><Metadata>'
    '<MDI key="STATISTICS_MEAN">7</MDI></Metadata></PAMRasterBand></PAMDataset>'
)
VRT = """<VRTDataset rasterXSize="40" rasterYSize="30"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""


def pixels(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 250, (1, 30, 40)).astype(np.uint8)


def stamp(path: Path | str) -> dict[str, Any]:
    with Scene(path) as scene:
        return scene.fingerprint()


def unnoticed(path: Path, change: Callable[[], object]) -> None:
    """Change a file and leave its size and times as they were."""
    before = path.stat()
    change()
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_pixels_of_the_same_name_size_and_time(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", pixels())
    first = stamp(path)
    unnoticed(path, lambda: write_raster(path, pixels(1)))
    second = stamp(path)
    assert second["content"] != first["content"]
    assert {**second, "content": 0} == {**first, "content": 0}
    unnoticed(path, lambda: write_raster(path, pixels()))
    assert stamp(path) == first
    # As unpacked from one archive into another folder.
    (tmp_path / "b").mkdir()
    shutil.copy2(path, tmp_path / "b" / "a.tif")
    assert stamp(tmp_path / "b" / "a.tif")["path"] != first["path"]


def test_the_path_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "a.tif", pixels())
    (tmp_path / "link.tif").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert stamp("a.tif") == stamp(path) == stamp("./link.tif")


@pytest.mark.parametrize("place", [0, 1, 30, 61, 63])
def test_pieces_of_a_large_file_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(module, "_WHOLE", 1 << 10)
    monkeypatch.setattr(module, "_SMALL", 1 << 10)
    monkeypatch.setattr(module, "_SAMPLE", 1 << 8)
    path = tmp_path / "a.tif"
    write_raster(path, np.random.default_rng(0).integers(0, 255, (1, 200, 300)).astype(np.uint8))
    size = path.stat().st_size
    first = stamp(path)
    assert stamp(path) == first
    assert sum(map(len, module._samples([(path, size)]))) == 64 * 256 < size

    def damage() -> None:
        with path.open("r+b") as file:
            file.seek((size - 256) * place // 63 + 200)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    unnoticed(path, damage)
    assert module._content([path], []) != first["content"]


def test_it_takes_bounded_reading(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(20 << 30)  # 20 GB of nothing
    assert sum(map(len, module._samples([(path, 20 << 30)]))) == 64 * (256 << 10)


def test_a_place_in_a_side_file(tmp_path: Path) -> None:
    profile = {"driver": "PNG", "width": 40, "height": 30, "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings(action="ignore"), rasterio.open(tmp_path / "a.png", "w", **profile) as sink:
        sink.write(pixels())
    aux = tmp_path / "a.png.aux.xml"
    aux.write_text(AUX.format(code=32633))
    first = stamp(tmp_path / "a.png")
    unnoticed(aux, lambda: aux.write_text(AUX.format(code=32635)))
    second = stamp(tmp_path / "a.png")
    assert second["properties"] != first["properties"]
    assert second["content"] != first["content"]
    aux.write_text(AUX.format(code=32633).replace("</PAM", f"{STATISTICS[12:-13]}</PAM"))
    assert stamp(tmp_path / "a.png") == first


@pytest.mark.parametrize("name", ["a.tif.msk", "a.tif.ovr", "a.tfw", "a.tifw", "a.wld", "A.TFW", "a.prj", "a_rpc.txt"])
def test_side_files_are_compared(tmp_path: Path, name: str) -> None:
    path = write_raster(tmp_path / "a.tif", pixels())
    first = module._content([path], [])
    side = tmp_path / name
    side.write_text("1\n0\n0\n-1\n7\n8\n")
    found = sorted({path, *module._side_files([path])})
    assert side in found
    second = module._content(found, [])
    assert second != first
    unnoticed(side, lambda: side.write_text("1\n0\n0\n-1\n7\n9\n"))
    assert module._content(found, []) != second


def test_statistics_and_empty_lists_change_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", pixels())
    first = stamp(path)
    for text in ("<PAMDataset/>", STATISTICS):
        (tmp_path / "a.tif.aux.xml").write_text(text)
        assert stamp(path) == first
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><Metadata><MDI key='a'>1</MDI></Metadata></PAMDataset>")
    assert stamp(path)["content"] != first["content"]


def test_what_gdal_makes_of_the_same_bytes(tmp_path: Path) -> None:
    stamps = [
        stamp(write_raster(tmp_path / "a.tif", pixels(), **profile))["properties"]
        for profile in ({}, {"nodata": 3}, {"crs": "EPSG:32618"}, {"transform": UTM["transform"] @ UTM["transform"]})
    ]
    for change in ("scales", "offsets", "descriptions"):
        write_raster(tmp_path / "a.tif", pixels())
        with rasterio.open(tmp_path / "a.tif", "r+") as sink:
            setattr(sink, change, (2.0,) if change != "descriptions" else ("red",))
        stamps.append(stamp(tmp_path / "a.tif")["properties"])
    write_raster(tmp_path / "a.tif", pixels(), photometric="palette")
    for red in (1, 2):
        with rasterio.open(tmp_path / "a.tif", "r+") as sink:
            sink.write_colormap(1, {value: (red, value, value, 255) for value in range(256)})
        stamps.append(stamp(tmp_path / "a.tif")["properties"])
    assert len(set(stamps)) == len(stamps)


def test_sources_of_sources_of_a_virtual_raster(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "source.tif", pixels())
    (tmp_path / "inner.vrt").write_text(VRT.format(source="source.tif"))
    (tmp_path / "outer.vrt").write_text(VRT.format(source="inner.vrt"))
    first = stamp(tmp_path / "outer.vrt")
    assert stamp(tmp_path / "outer.vrt") == first
    unnoticed(source, lambda: write_raster(source, pixels(1)))
    second = stamp(tmp_path / "outer.vrt")
    assert second["content"] != first["content"]
    (tmp_path / "source.tif.msk").write_text("x")
    assert stamp(tmp_path / "outer.vrt")["content"] != second["content"]


def test_a_file_in_an_archive(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", pixels())
    stamps = []
    for seed in (0, 0, 1):
        write_raster(path, pixels(seed))
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(path, "a.tif")
        os.utime(tmp_path / "a.zip", (9, 9))
        stamps.append(stamp(f"/vsizip/{tmp_path}/a.zip/a.tif"))
    assert "checksum" not in stamps[0]
    assert stamps[0]["content"] != stamps[2]["content"]
