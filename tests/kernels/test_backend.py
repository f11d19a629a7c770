"""Choice of implementation, threads and processes."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from dynamicvis_kernels import _backend, _parallel, causal_conv_silu
from dynamicvis_kernels.causal_conv import naive
from dynamicvis_kernels.selective_scan import mamba_ssm
from dynamicvis_kernels.selective_scan import naive as naive_scan

X, WEIGHT, BIAS = (
    torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, 9, 8), (8, 4), (8,))
)


def test_environment_forces_the_naive_version(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def spy(*arguments: torch.Tensor) -> torch.Tensor:
        called.append(True)
        return arguments[0]

    monkeypatch.setattr(naive, "causal_conv_silu", spy)
    causal_conv_silu(X, WEIGHT, BIAS)
    assert not called
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "naive")
    causal_conv_silu(X, WEIGHT, BIAS)
    assert called


def test_forced_backend_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "mamba_ssm")
    with pytest.raises(ValueError, match=r"DYNAMICVIS_BACKEND=mamba_ssm has no kernel .* available there: naive, cpu"):
        causal_conv_silu(X, WEIGHT, BIAS)


def test_triton_on_the_cpu_needs_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    _backend._choose.cache_clear()
    message = r"DYNAMICVIS_BACKEND=triton has no kernel .* TRITON_INTERPRET=1 .*; available there: naive, cpu$"
    with pytest.raises(ValueError, match=message):
        causal_conv_silu(X, WEIGHT, BIAS)


@pytest.mark.parametrize(
    ("installed", "forced", "expected"),
    [
        ({"triton": True, "mamba_ssm": False}, None, "triton"),
        ({"triton": True, "mamba_ssm": True}, None, "triton"),
        ({"triton": True, "mamba_ssm": True}, "mamba_ssm", "mamba_ssm"),
        ({"triton": False, "mamba_ssm": False}, "naive", "naive"),
        ({"triton": False, "mamba_ssm": False}, None, "install triton, move the model"),
        ({"triton": True, "mamba_ssm": False}, "mamba_ssm", "available there: naive, triton$"),
        ({"triton": True, "mamba_ssm": True}, "cpu", "available there: naive, triton, mamba_ssm$"),
    ],
)
def test_choice_on_a_gpu(
    installed: dict[str, bool], forced: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backend, "_INSTALLED", installed)
    monkeypatch.delenv("DYNAMICVIS_BACKEND", raising=False)
    if forced:
        monkeypatch.setenv("DYNAMICVIS_BACKEND", forced)
    _backend._choose.cache_clear()
    try:
        if " " in expected:
            with pytest.raises(ValueError, match=expected):
                _backend.choose_backend(torch.device("cuda"))
        else:
            assert _backend.choose_backend(torch.device("cuda")) == expected
    finally:
        _backend._choose.cache_clear()


def test_mamba_ssm_is_called_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the signature and layout of mamba_ssm's function gives the numbers of the naive version."""

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        assert u.shape == delta.shape == (2, 6, 9)
        assert B.shape == C.shape == (2, 3, 9)
        assert z is None
        assert delta_softplus
        assert not return_last_state
        assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
        assert all(tensor.stride(-1) == 1 for tensor in (u, delta, B, C))
        step = torch.nn.functional.softplus(delta.float() + delta_bias[:, None])
        state, outputs = torch.zeros(2, 6, 3), []
        for t in range(9):
            drive = (step[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
            state = (step[:, :, t, None] * A).exp() * state + drive
            outputs.append((state * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
        return torch.stack(outputs, -1).to(u.dtype)

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    normal = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    inputs = [
        *(normal(2, 2, 9, 6), normal(2, 2, 9, 6), -normal(6, 3).exp(), normal(2, 2, 9, 3), normal(2, 2, 9, 3)),
        *(normal(6), normal(2, 9, 6), normal(6)),
    ]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    actual, expected = mamba_ssm.selective_scan(*inputs), naive_scan.selective_scan(*inputs)
    torch.testing.assert_close(actual, expected)
    grad = normal(actual.shape)
    for one, other in zip(*(torch.autograd.grad(y, inputs, grad) for y in (actual, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_triton_is_imported_by_its_first_kernel_only() -> None:
    code = (
        "import sys, torch, dynamicvis_kernels as k\n"
        "assert 'triton' not in sys.modules\n"
        "k.gather_tokens(torch.randn(1, 3, 4), torch.tensor([[1]]))\n"
        "k.causal_conv_silu(torch.randn(1, 3, 4), torch.randn(4, 2), torch.randn(4))\n"
        "assert 'triton' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_device_without_kernel() -> None:
    with pytest.raises(ValueError, match=r"no compiled kernel for device type 'meta'.*move the model"):
        causal_conv_silu(X.to("meta"), WEIGHT.to("meta"), BIAS.to("meta"))


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    _backend._choose.cache_clear()
    with caplog.at_level(logging.DEBUG, logger="dynamicvis_kernels"):
        for _ in range(3):
            causal_conv_silu(X, WEIGHT, BIAS)
    assert [record.getMessage() for record in caplog.records] == ["device type cpu: cpu kernels"]


@pytest.mark.parametrize("with_openmp", [True, False], ids=["torch's pool", "Python threads"])
def test_both_pools_and_many_callers(with_openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_openmp:
        monkeypatch.setattr(_parallel, "_gomp_parallel", lambda: None)
    x = torch.randn(2, 500, 48, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.randn(48, 4), torch.randn(48)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        expected = causal_conv_silu(x, weight, bias)
        with ThreadPoolExecutor(4) as callers:
            outputs = list(callers.map(lambda _: causal_conv_silu(x, weight, bias), range(40)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(output, expected) for output in outputs)
    torch.testing.assert_close(expected, naive.causal_conv_silu(x, weight, bias))


@pytest.mark.parametrize("with_openmp", [True, False], ids=["torch's pool", "Python threads"])
def test_number_of_threads_changed_while_kernels_run(with_openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the callers, each its own way, and by a thread that does nothing else; up to many more than the cores."""
    if not with_openmp:
        monkeypatch.setattr(_parallel, "_gomp_parallel", lambda: None)
    x, weight, bias = torch.ones(2, 70, 40, requires_grad=True), torch.ones(40, 4), torch.ones(40)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(causal_conv_silu(x, weight, bias).sum(), x)[0]

    def call(number: int) -> bool:
        torch.set_num_threads((1, 2, 5, 64)[number % 4])
        return all(torch.equal(gradient(), expected) for _ in range(20))

    def change() -> None:
        for number in itertools.cycle((1, 3, 64)):
            if finished.is_set():
                return
            torch.set_num_threads(number)

    expected, finished, threads = gradient(), threading.Event(), torch.get_num_threads()
    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(4) as callers:
            assert all(callers.map(call, range(8)))
    finally:
        finished.set()
        changing.join()
        torch.set_num_threads(threads)


@pytest.mark.parametrize("with_openmp", [True, False], ids=["torch's pool", "Python threads"])
def test_fork_after_a_call(with_openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child has none of its parent's threads: it must compute alone, and the same."""
    if not with_openmp:
        monkeypatch.setattr(_parallel, "_gomp_parallel", lambda: None)
    expected = causal_conv_silu(X, WEIGHT, BIAS)
    child = os.fork()
    if child == 0:
        same = torch.equal(causal_conv_silu(X, WEIGHT, BIAS), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_cached_kernels_follow_the_code_they_share(tmp_path: Path) -> None:
    """Numba's cache looks at the file of a kernel; a change of a file that it uses counts too."""
    package = tmp_path / "dynamicvis_kernels"
    source = Path(_backend.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import torch; from dynamicvis_kernels import causal_conv_silu\n"
        "print(causal_conv_silu(torch.ones(1, 1, 1), torch.ones(1, 1), torch.zeros(1)).flatten()[0].item())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> float:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    before = run()
    assert before == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item())
    shared = package / "_exponentials.py"
    shared.write_text(
        shared.read_text() + "\n\n@njit(forceinline=True)\ndef sigmoid(value):\n    return value + value\n"
    )
    assert run() == 2.0
