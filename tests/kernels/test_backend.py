"""Choice of implementation, threads and processes."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from dynamicvis_kernels import _backend, _parallel, causal_conv_silu
from dynamicvis_kernels.causal_conv import naive

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
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "triton")
    with pytest.raises(ValueError, match=r"DYNAMICVIS_BACKEND=triton has no kernel .* available there: naive, cpu"):
        causal_conv_silu(X, WEIGHT, BIAS)


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
