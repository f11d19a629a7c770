from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from dynamicvis.geo import Extent, GeoError, Scene

FUZZ = Path(__file__).with_name("geo_fuzz.py")


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(FUZZ), str(tmp_path), str(seed), "24"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    summary = json.loads(done.stdout)
    assert summary["wrong"] == []
    assert summary["outcomes"]["refused"] > 100
    assert summary["outcomes"]["read"] > 50
    assert summary["slowest"][0] < 5


def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype=np.uint8)
    with rasterio.open(path, "w", driver="PNG", dtype="uint8", count=3, height=200, width=200) as sink:
        sink.write(noise)
    path.write_bytes(path.read_bytes()[:60000])
    with Scene(path) as scene, pytest.raises(GeoError, match=r"a\.png cannot be read to its end"):
        scene.read(Extent(0, 0, 200, 200))
