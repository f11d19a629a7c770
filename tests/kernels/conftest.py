"""Where the tests of the Triton kernels run.

With a GPU they run compiled, as tests marked ``gpu``. Without one they run in Triton's interpreter on the CPU, which
the whole suite's ``conftest.py`` switches on: Triton decides when it is imported, so one session does one or the other.
"""

from __future__ import annotations

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


DEVICE = pytest.param("cuda", id="gpu", marks=pytest.mark.gpu) if HAS_GPU else pytest.param("cpu", id="interpreter")


def pytest_report_header() -> str:
    return f"Triton kernels: {'compiled for the GPU' if HAS_GPU else 'interpreted on the CPU, no CUDA or ROCm device'}"


@pytest.fixture(params=[DEVICE])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of a Triton kernel's tensors, with Triton forced."""
    pytest.importorskip("triton")
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "triton")
    return torch.device(request.param)
