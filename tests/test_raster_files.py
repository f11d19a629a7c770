from __future__ import annotations

import gzip
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from dynamicvis.data.raster import DataError, decode_raster, read_raster
from dynamicvis.geo import Extent, GeoError, Scene
from dynamicvis.geo.scene.finding import find_scenes
from dynamicvis.raster_files import RasterFileError, open_raster

SIZE = 64


class Listener:
    """A server that writes down what is asked of it, and has nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(500).decode().partition("\r\n")[0])
                connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.close()


def tiff(path: Path, value: int = 7, **overviews: str) -> Path:
    with rasterio.open(path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype="uint8") as sink:
        sink.write(np.full((1, SIZE, SIZE), value, np.uint8))
        if overviews:
            sink.update_tags(ns="OVERVIEWS", **overviews)
    return path


def vrt(source: str, relative: int = 0) -> str:
    return (
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def map_service(address: str) -> str:
    return (
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{address}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service><DataWindow>'
        "<UpperLeftX>-1</UpperLeftX><UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>-1</LowerRightY>"
        "<TileLevel>1</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY></DataWindow>"
        "<Projection>EPSG:4326</Projection><BandsCount>1</BandsCount></GDAL_WMS>"
    )


def look_at(path: Path | str) -> None:
    with Scene(path) as scene:
        scene.read(Extent(0, 0, SIZE, SIZE))
        scene.read_resampled(4, 4)


def refusal(path: Path | str) -> str:
    """The sentence with which a scene is refused, at opening or reading."""
    with pytest.raises(GeoError) as caught:
        look_at(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["x.tif", "x.jp2", "x.img", "x.png", "x"])
@pytest.mark.parametrize("before", [b"", b" \n\t", b"\xef\xbb\xbf"])
def test_a_virtual_raster_under_another_name_opens_nothing(tmp_path: Path, name: str, before: bytes) -> None:
    other = tiff(tmp_path / "private.tif")
    path = tmp_path / name
    path.write_bytes(before + vrt(str(other)).encode())
    assert f"{name} is a virtual raster (VRT) by its content" in refusal(path)
    with pytest.raises(DataError, match="is a virtual raster"):
        read_raster(path)


def test_what_is_fetched_under_any_local_name_is_refused(tmp_path: Path, listener: Listener) -> None:
    remote, service = vrt(f"/vsicurl/{listener.address}/s.tif"), map_service(listener.address)
    contents = {"a.tif": service, "b.xml": service, "c.tif": remote, "d.json": '{"type": "Feature"}'}
    contents |= {
        "e.gti": f"<GDALTileIndexDataset><IndexDataset>/vsicurl/{listener.address}/i</IndexDataset></GDALTile>"
    }
    contents |= {"f.vrt": remote, "g.vrt": vrt("f.vrt", 1), "h.vrt": vrt(f"{listener.address}/s.tif")}
    contents |= {"i.vrt": vrt("a.tif", 1), "j.vrt": vrt(service.replace("<", "&lt;"))}
    contents |= {
        "k.mrf": f"<MRF_META><CachedSource><Source>/vsicurl/{listener.address}/s</Source></CachedSource></MRF_META>"
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "l.tif.gz").write_bytes(gzip.compress(service.encode()))
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("in.tif", remote)
        archive.writestr("in.vrt", remote)
    for name in contents:
        assert name in refusal(tmp_path / name) or name == "g.vrt"
        refusal(f"file://{tmp_path / name}")
    for name in (f"/vsigzip/{tmp_path}/l.tif.gz", f"/vsizip/{tmp_path}/m.zip/in.tif", f"zip://{tmp_path}/m.zip!in.vrt"):
        refusal(name)
    with pytest.raises(DataError, match="cannot be read"):
        decode_raster(service.encode(), "member")
    assert listener.asked == []
    refusal(f"{listener.address}/s.tif")  # An address that the user gives is asked.
    assert listener.asked != []


def test_side_files_are_tiffs_and_name_no_others(tmp_path: Path, listener: Listener) -> None:
    service = tmp_path / "service.tif"
    service.write_text(map_service(listener.address))
    item = "<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>{}</MDI></Metadata></PAMDataset>"
    for suffix in (".ovr", ".OvR", ".msk"):
        path = tiff(tmp_path / f"a{suffix}.tif")
        (tmp_path / f"{path.name}{suffix}").write_text(map_service(listener.address))
        assert "is no TIFF" in refusal(path)
    masked = tiff(tmp_path / "masked.tif")
    tiff(tmp_path / "masked.tif.msk", OVERVIEW_FILE=str(service))
    assert "masked.tif.msk" in refusal(masked)
    inside = tiff(tmp_path / "inside.tif", OVERVIEW_FILE=f"/vsicurl/{listener.address}/o.tif")
    assert "OVERVIEW_FILE" in refusal(inside)
    beside = tiff(tmp_path / "beside.tif")
    (tmp_path / "beside.tif.aux.xml").write_text(item.format(service))
    assert "OVERVIEW_FILE" in refusal(beside)
    assert listener.asked == []


def test_overviews_and_masks_beside_a_file_still_count(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True), rasterio.open(path, "r+") as sink:
        sink.write_mask(np.repeat([True, False], SIZE // 2)[:, None].repeat(SIZE, 1))
        sink.build_overviews([2, 4])
    assert {file.name for file in tmp_path.iterdir()} >= {"a.tif.msk", "a.tif.ovr"}
    with Scene(path) as scene:
        assert scene.read(Extent(0, 0, SIZE, SIZE))[1].mean() == 0.5
    with open_raster(path) as dataset:
        assert dataset.overviews(1) == [2, 4]


def test_a_virtual_raster_that_says_so_reads_local_files(tmp_path: Path) -> None:
    tiff(tmp_path / "part.tif", 9)
    (tmp_path / "inner.vrt").write_text(vrt("part.tif", 1))
    (tmp_path / "outer.vrt").write_text(vrt("inner.vrt", 1))
    for name in ("inner.vrt", "outer.vrt"):
        with Scene(tmp_path / name) as scene:
            assert (scene.read(Extent(0, 0, SIZE, SIZE))[0] == 9).all()
        assert (read_raster(tmp_path / name) == 9).all()
    with Scene(f"vrt://{tmp_path}/outer.vrt") as scene:
        assert (scene.read(Extent(0, 0, SIZE, SIZE))[0] == 9).all()
    (tmp_path / "part.tif").unlink()
    assert "refers to part.tif, which does not exist" in refusal(tmp_path / "outer.vrt")


def test_python_code_in_a_virtual_raster_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionType>f.f</PixelFunctionType>'
        f"<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>open({str(ran)!r}, 'w')\n"
        "def f(*a, **k): pass</PixelFunctionCode></VRTRasterBand></VRTDataset>"
    )
    with rasterio.Env(GDAL_VRT_ENABLE_PYTHON="YES"):
        refusal(tmp_path / "a.vrt")
    assert not ran.exists()


def test_entities_and_endless_references_end(tmp_path: Path) -> None:
    path = tmp_path / "a.vrt"
    path.write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + vrt("a.tif"))
    assert "entities" in refusal(path)
    path.write_text(vrt("a.vrt", 1))
    refusal(path)
    for depth in range(12):
        (tmp_path / f"{depth}.vrt").write_text(vrt(f"{depth + 1}.vrt", 1))
    assert "deep" in refusal(tmp_path / "0.vrt")


def test_a_file_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = tiff(Path("plain.tif")).read_bytes()
    for name in ("NETCDF:plain.tif", "GTIFF_DIR:1:plain.tif"):
        Path(name).write_bytes(content)
        with Scene(name) as scene:
            assert scene.read(Extent(0, 0, 1, 1))[0].item() == 7
    Path("b.tif").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    with pytest.raises(RasterFileError, match=r"HDF5 or netCDF.*\.nc"):
        open_raster("b.tif")


@pytest.mark.parametrize("href", ["vrt://a.tif", "WMS:http://host/x", "/vsisparse/a.xml"])
def test_an_item_names_files_and_addresses_only(tmp_path: Path, href: str) -> None:
    pytest.importorskip("pystac")
    item = tmp_path / "item.json"
    item.write_text(
        '{"type": "Feature", "stac_version": "1.0.0", "id": "i", "geometry": null, "links": [], "properties": '
        f'{{"datetime": "2024-01-01T00:00:00Z"}}, "assets": {{"data": {{"href": "{href}"}}}}}}'
    )
    (found,) = find_scenes([item])
    assert "is no file and no address" in (found.problem or "")


def test_pipes_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tif")
    band = '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">pipe.tif'
    (tmp_path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="8" rasterYSize="8">{band}</SourceFilename>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for name, message in (("pipe.tif", "is a pipe or a device"), ("m.vrt", r"refers to pipe\.tif, which is no raster")):
        with pytest.raises(RasterFileError, match=message):
            open_raster(tmp_path / name)
