"""Compiled functions of geo: kept, replaced when damaged, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_outlines_outlive_a_damaged_cache_and_one_that_cannot_be_written(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from dynamicvis.geo.stitching.outlines import label_regions\n"
        "padded = np.pad(np.eye(3, dtype=np.int32), 1, constant_values=-1)\n"
        "print(label_regions(padded)[1], 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(folder: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | {"NUMBA_CACHE_DIR": folder}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == (folder == "/dev/null")
        return done.stdout.strip()

    assert run(str(tmp_path)) == "5 False"
    entries = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:50])
    assert run(str(tmp_path)) == "5 False"
    assert all(entry.stat().st_size > 1000 for entry in entries)
    assert run("/dev/null") == "5 False"
