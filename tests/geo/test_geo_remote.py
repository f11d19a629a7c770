from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from geo_scenes import make_card, write_raster

from dynamicvis.geo import Extent, GeoError, Scene
from dynamicvis.geo.scene.reading import gdal_options, is_remote


class Server:
    """A folder behind HTTP that serves ranges, remembers what was asked for, and fails as often as it is told to."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.failures = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.requests.append((self.path, asked))
                path = folder / self.path.lstrip("/").partition("?")[0]
                if server.failures:
                    server.failures -= 1
                    self._answer(503, b"")
                elif not path.is_file():
                    self._answer(404, b"")
                elif asked:
                    content = path.read_bytes()
                    match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
                    assert match
                    start, end = int(match[1]), min(int(match[2]) + 1, len(content))
                    part = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
                    self._answer(206, content[start:end], part)
                else:
                    self._answer(200, path.read_bytes())

            do_HEAD = do_GET

            def _answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(code)
                for name, value in {
                    "Accept-Ranges": "bytes",
                    "Content-Length": len(content),
                    **(headers or {}),
                }.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


BANDS = np.random.default_rng(0).integers(1, 250, (3, 512, 512)).astype(np.uint8)
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}


def test_a_remote_scene_is_read_in_ranges(server: Server, tmp_path: Path) -> None:
    size = write_raster(tmp_path / "a.tif", BANDS, **TILED).stat().st_size
    windows = [Extent(x, y, x + 60, y + 60) for x in (0, 100) for y in (0, 90)]
    with Scene(f"{server.address}/a.tif", make_card()) as scene, ThreadPoolExecutor(3) as pool:
        for window, (values, valid) in zip(windows, pool.map(scene.read, windows), strict=True):
            np.testing.assert_array_equal(values, BANDS[:, window.top : window.bottom, window.left : window.right])
            assert valid.all()
        first = scene.fingerprint()
    # Nothing but the file was asked for, and never the whole of it.
    assert {path for path, _ in server.requests} == {"/a.tif"}
    ranges = [re.findall(r"\d+", asked) for _, asked in server.requests if asked]
    assert ranges
    assert max(int(end) - int(start) for start, end in ranges) < size / 2
    with Scene(f"/vsicurl/{server.address}/a.tif", make_card()) as scene:
        assert scene.fingerprint()["checksum"] == first["checksum"]


def test_an_address_with_a_query(server: Server, tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", BANDS, **TILED)
    with Scene(f"{server.address}/a.tif?signature=a%2Fb.c", make_card()) as scene:
        np.testing.assert_array_equal(scene.read(Extent(0, 0, 9, 9))[0], BANDS[:, :9, :9])


def test_failures_of_the_server_are_tried_again(server: Server, tmp_path: Path) -> None:
    write_raster(tmp_path / "flaky.tif", BANDS, **TILED)
    server.failures = 1
    with Scene(f"{server.address}/flaky.tif", make_card()) as scene:
        assert scene.read(Extent(0, 0, 9, 9))[1].all()
    assert server.failures == 0


def test_what_is_not_there_is_refused(server: Server) -> None:
    with pytest.raises(GeoError, match=r"gone\.tif cannot be opened .*404.*check the address"):
        Scene(f"{server.address}/gone.tif", make_card())


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("s3://bucket/a.tif", True),
        ("https://host/a.tif", True),
        ("zip+https://host/a.zip!a.tif", True),
        ("/vsizip//vsicurl/https://host/a.zip/a.tif", True),
        ("/vsizip/a.zip/a.tif", False),
        ("/data/vsicurl/a.tif", False),
        ("a.tif", False),
    ],
)
def test_settings_for_remote_files_are_for_those_alone(path: str, remote: bool) -> None:
    assert is_remote(path) is remote
    assert ("GDAL_DISABLE_READDIR_ON_OPEN" in gdal_options(path)) is remote


def test_settings_of_the_user_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "9")
    with rasterio.Env(VSI_CACHE="FALSE"):
        options = gdal_options("s3://bucket/a.tif")
    assert "GDAL_HTTP_MAX_RETRY" not in options
    assert options["VSI_CACHE"] == "FALSE"
