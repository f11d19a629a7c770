"""The selective scan against other projects' reference implementations, where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import dynamicvis_kernels
import pytest
import torch
from torch.nn import functional as F

ORACLES = {
    "transformers": ("transformers.models.mamba.modeling_mamba", "mamba_selective_scan"),
    "mamba_ssm": ("mamba_ssm.ops.selective_scan_interface", "selective_scan_ref"),
}


@pytest.fixture(params=ORACLES)
def oracle(request: pytest.FixtureRequest) -> Callable[..., torch.Tensor]:
    """A scan of one direction: sequences as (batch, channels or states, length), softplus and bias inside."""
    module, function = ORACLES[request.param]
    pytest.importorskip(request.param)
    return getattr(importlib.import_module(module), function)


def scan_inputs(batch: int, length: int, channels: int, states: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, batch, length, channels)] * 2 + [(channels, states)] + [(2, batch, length, states)] * 2
    shapes += [(channels,), (batch, length, channels), (channels,)]
    inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
    inputs[2] = -inputs[2].exp()
    return inputs


def both_directions(oracle: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> torch.Tensor:
    u, delta, A, B, C, D, z, delta_bias = inputs

    def scan(direction: int) -> torch.Tensor:
        sequences = [tensor[direction].flip(1) if direction else tensor[direction] for tensor in (u, delta, B, C)]
        x, step, b, c = (sequence.transpose(1, 2) for sequence in sequences)
        y = oracle(x, step, A, b, c, D, z=None, delta_bias=delta_bias, delta_softplus=True).transpose(1, 2)
        return y.flip(1) if direction else y

    return (scan(0) + scan(1)) / 2 * F.silu(z)


@pytest.mark.parametrize("backend", ["naive", "cpu"])
def test_scan_equals_oracle(oracle: Callable[..., torch.Tensor], backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICVIS_BACKEND", backend)
    inputs = scan_inputs(2, 40, 24, 16)
    torch.testing.assert_close(dynamicvis_kernels.selective_scan(*inputs), both_directions(oracle, inputs))


def test_triton_scan_equals_oracle(oracle: Callable[..., torch.Tensor], device: torch.device) -> None:
    inputs = scan_inputs(1, 5, 4, 2)
    actual = dynamicvis_kernels.selective_scan(*(tensor.to(device) for tensor in inputs)).cpu()
    torch.testing.assert_close(actual, both_directions(oracle, inputs))
