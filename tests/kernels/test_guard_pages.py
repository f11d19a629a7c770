"""No kernel touches memory beyond its buffers: the short form of `guard_pages.py`, in a process that may die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages by mprotect")
def test_no_access_beyond_a_buffer() -> None:
    script = Path(__file__).with_name("guard_pages.py")
    done = subprocess.run([sys.executable, str(script), "--shapes", "40"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 40 * 50
