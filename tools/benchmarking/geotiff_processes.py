"""What the benchmark of the GeoTIFF engine runs in fresh processes: peak memory of a run, start-up of the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarking.process import status_bytes
from dynamicvis.geo import map_raster, models, predict
from dynamicvis.tile_model import TileModel, TileOutputs

_TOOLS = Path(__file__).parents[1]


def in_fresh_process(task: str, *arguments: str) -> dict[str, Any]:
    """Run one of the tasks of this module in a new interpreter.

    Args:
        task: ``"map"``, ``"predict"`` or ``"first-tile"``.
        arguments: scene, output, and but for ``"map"`` a model.

    Returns:
        What the task prints; for ``"first-tile"`` seconds since this call.

    Raises:
        RuntimeError: the process failed.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_TOOLS), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "benchmarking.geotiff_processes", task, *arguments]
    start = time.time()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"{task} failed: {process.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return {name: value - start for name, value in result.items()} if task == "first-tile" else result


def same(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The identity, as a function for `map_raster`."""
    return images


def _peak_memory(scene: str, out: str, model: str | None = None) -> dict[str, Any]:
    start = time.perf_counter()
    if model is None:
        times = map_raster(same, scene, out, out_dtype="uint8").times
    else:
        found = predict(scene, out, model).times
        assert found is not None
        times = found
    seconds = time.perf_counter() - start
    return {"peak_mib": status_bytes("VmHWM") / 2**20, "seconds": seconds, "tiles": times.tiles, "empty": times.empty}


def _first_tile(scene: str, out: str, model: str) -> dict[str, Any]:
    """Times of the clock at which the model begins and ends its first call, of a run of the command."""
    events: dict[str, float] = {}
    load = models.load_model

    def watched(*arguments: Any, **options: Any) -> TileModel:
        inner = load(*arguments, **options)

        class Watched:
            card = inner.card

            def __call__(self, images: NDArray[np.float32]) -> TileOutputs:
                events.setdefault("begins", time.time())
                outputs = inner(images)
                events.setdefault("ends", time.time())
                return outputs

        return Watched()

    models.load_model = watched
    from dynamicvis.cli.main import dynamicvis

    dynamicvis(["predict", scene, "-o", out, "--model", model, "-q"], standalone_mode=False)
    return events


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    print(json.dumps(_first_tile(*arguments) if task == "first-tile" else _peak_memory(*arguments)))
