"""Processes that run over scenes together, and die when they are told to.

As a program this is a server that has everything imported and no threads, and forks a process for each run; with
arguments it is one run of `run_predict`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from geo_scenes import make_card, write_raster
from numpy.typing import NDArray

from dynamicvis.geo import Settings, map_raster, mapping, predict
from dynamicvis.geo.runs import leases
from dynamicvis.geo.scene import reading
from dynamicvis.geo.stitching import assembly
from dynamicvis.tile_model import TileOutputs

TILE, OVERLAP = 64, 16


def write_places(path: Path, height: int, width: int) -> Path:
    """A scene whose pixels hold their number, so that a tile tells where it lies."""
    places = np.arange(1, height * width + 1, dtype=np.int32).reshape(1, height, width)
    return write_raster(path, places)


class Log:
    """Lines that many processes append to one file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def add(self, line: int) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    def counts(self) -> Counter[int]:
        return Counter(map(int, self.path.read_text().split())) if self.path.exists() else Counter()


class Stops:
    """Where a process is to die or to wait: at the n-th tile, or at the n-th change to the files below a folder.

    Tile 0 is when it has begun and has not looked for work yet.
    """

    def __init__(
        self, *, tile: int | None = None, change: int | None = None, folder: str = "", pause: str | None = None
    ) -> None:
        self._tile, self._change, self._folder, self._pause = tile, change, folder, pause
        self.tiles = self.changes = 0
        self._begun = False
        if folder:
            sys.addaudithook(self._watch)

    def at_tile(self) -> None:
        self.tiles += 1
        self._act()

    def at_progress(self, done: int, of: int, pixels: int) -> None:
        if self._tile == 0 and not self._begun:
            self._act()
        self._begun = True

    def _act(self) -> None:
        if self.tiles == self._tile:
            if self._pause is None:
                _die()
            # Opening a pipe waits for the other end: once to tell, once to be told.
            Path(f"{self._pause}.reached").write_text("here")
            Path(f"{self._pause}.go").read_text()

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "open"):
            path = arguments[0]
            if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self._folder):
                return
            if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
            self.changes += 1
            if self.changes == self._change:
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class PlaceModel:
    """Two classes by the parity of 32 pixels, the same for every pixel wherever it lies in its tile."""

    digest = "0" * 64
    device = "cpu"

    def __init__(self, log: str | Path | None = None, stops: Stops | None = None) -> None:
        self.card = make_card(
            task="segmentation",
            bands=("place",),
            mean=(0.0,),
            std=(1.0,),
            value_range=(0.0, 1e7),
            classes=("even", "odd"),
            tile=TILE,
            overlap=OVERLAP,
        )
        self._log, self._stops = None if log is None else Log(log), stops

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        for image in images:
            if self._log is not None:
                self._log.add(int(image[0, 0, 0]))
            if self._stops is not None:
                self._stops.at_tile()
        odd = (images[:, 0] // 32 % 2).astype(np.float32)
        return TileOutputs(maps={"scores": np.stack([1 - odd, odd], axis=1)})


class FragileModel(PlaceModel):
    """Kills its process at the n-th tile of all, once."""

    def __init__(self, log: str | Path, tile: int) -> None:
        super().__init__(log)
        self._tile = tile

    def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
        outputs = super().__call__(images)
        assert self._log is not None
        if self._log.counts().total() >= self._tile:
            with suppress(FileExistsError):
                self._log.path.with_suffix(".killed").touch(exist_ok=False)
                _die()
        return outputs


def run_predict(
    scene: str,
    out: str,
    log: str | None = None,
    stops: dict[str, Any] | None = None,
    leases_after: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """`predict` with the model of places; ``leases_after``: seconds to look at a lease, and until it is free."""
    if leases_after is not None:
        leases._LOOK, leases.EXPIRY = leases_after
    stop = Stops(folder=out, **(stops or {}))
    chosen = {"formats": ("tif", "geojson"), "batch_size": 1, "creation_options": {"NUM_THREADS": "1"}} | settings
    result = predict(scene, out, PlaceModel(log, stop), settings=Settings(**chosen), progress=stop.at_progress)
    return {"tiles": result.tiles, "counts": result.counts, "computed": stop.tiles, "changes": stop.changes}


def run_map(scene: str, out: str, log: str | None = None, stops: dict[str, Any] | None = None, **options: Any) -> Any:
    """`map_raster` with a function that gives back what it gets."""
    stop = Stops(folder=str(Path(out).parent), **(stops or {}))

    def give_back(images: NDArray[np.float32]) -> NDArray[np.float32]:
        for image in images:
            if log is not None:
                Log(log).add(int(image[0, 0, 0]))
            stop.at_tile()
        return images

    vars(give_back)["digest"] = "gives back what it gets"  # Whatever it logs, and wherever it stops.
    options = {"batch_size": 1, "creation_options": {"NUM_THREADS": "1"}} | options
    map_raster(give_back, scene, out, tile=TILE, overlap=OVERLAP, progress=stop.at_progress, **options)
    return {"computed": stop.tiles, "changes": stop.changes}


def run_sparse(scene: str, out: str, cache: int) -> dict[str, Any]:
    """Map a scene with bounds on GDAL's caches; the peak of the memory in bytes."""
    mapping.gdal_cache = partial(reading.gdal_cache, cache)
    assembly._CACHE = cache
    _begin_peak()
    map_raster(
        lambda images: images,
        scene,
        out,
        tile=256,
        overlap=32,
        out_dtype="uint8",
        out_nodata=0,
        creation_options={"NUM_THREADS": "1"},
    )
    return {"peak": _peak()}


def run_hungry(scene: str, out: str, hunger: int, **options: Any) -> dict[str, Any]:
    """Map a scene with a function that takes a number of bytes for each tile; the peak of the memory in bytes."""
    batches = []

    def eat(images: NDArray[np.float32]) -> NDArray[np.float32]:
        batches.append(len(images))
        food = np.ones((len(images), hunger), np.uint8)
        return images + (food[:, :1, None, None] - 1)

    _begin_peak()
    map_raster(eat, scene, out, tile=128, overlap=0, **options)
    return {"peak": _peak(), "batch": max(batches)}


def _begin_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


class Nursery:
    """Starts runs as processes of their own."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def start(self, function: str, **arguments: Any) -> int:
        """Start one of this module's functions; returns the number of the process."""
        return self._ask({"function": function, "arguments": arguments})["pid"]

    def wait(self, pid: int) -> dict[str, Any]:
        """How a process ended: "status" is its exit status, minus the signal that killed it."""
        return self._ask({"wait": pid})

    def run(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Start and wait."""
        return self.wait(self.start(function, **arguments))

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(question, default=str), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def _serve() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Imports and compiles what all processes need.
        scene = write_places(Path(folder) / "site.tif", TILE, TILE)
        run_predict(str(scene), f"{folder}/out")
    answers: dict[int, int] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            pid = question["wait"]
            with os.fdopen(answers.pop(pid)) as pipe:
                text = pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answer = {"status": status} | (json.loads(text) if text else {})
        else:
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                _work(question, write)
            os.close(write)
            answers[pid] = read
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _work(question: dict[str, Any], write: int) -> None:
    # Its own session of standard streams: the server's belong to the tests.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    try:
        answer, status = globals()[question["function"]](**question["arguments"]), 0
    except BaseException as error:
        answer, status = {"error": str(error), "trace": traceback.format_exc()}, 1
    with os.fdopen(write, "w") as pipe:
        json.dump(answer, pipe)
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(run_predict(*sys.argv[1:])))
    else:
        _serve()
