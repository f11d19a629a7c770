from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("model_fuzz.py")


def test_hostile_model_files_are_refused_and_cause_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(FUZZ), str(tmp_path), "0", "200"],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["wrong"] == []
    assert summary["outcomes"]["refused"] > 80
    assert summary["outcomes"]["run"] > 20
