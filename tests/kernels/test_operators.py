"""The CPU kernels against the naive versions, and the naive versions against float64 differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import dynamicvis_kernels
import pytest
import torch
from dynamicvis_kernels.causal_conv import naive as naive_conv
from dynamicvis_kernels.selective_scan import naive as naive_scan
from torch.nn import functional as F

Operator = Callable[..., torch.Tensor]
BATCH = 3
LENGTHS = (1, 3, 4, 17, 1000)
CHANNELS = (8, 24, 40)
DTYPES = (torch.float32, torch.float64)


def tolerance(dtype: torch.dtype, length: int) -> float:
    """Of the largest magnitude: rounding errors of sums over the sequence grow with the root of its length."""
    return 16 * torch.finfo(dtype).eps * math.sqrt(length)


def scan_inputs(
    length: int, channels: int, dtype: torch.dtype, batch: int = BATCH, states: int = 16
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length * 1000 + channels)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    rates = -0.1 - 8 * torch.rand(channels, states, generator=generator, dtype=dtype)
    sequence = (batch, length, channels)
    return [
        normal(2, *sequence),
        normal(2, *sequence),
        rates,
        normal(2, batch, length, states),
        normal(2, batch, length, states),
        normal(channels),
        normal(*sequence),
        normal(channels),
    ]


def conv_inputs(
    length: int, channels: int, dtype: torch.dtype, batch: int = BATCH, width: int = 4
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length * 1000 + channels)
    shapes = ((batch, length, channels), (channels, width), (channels,))
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


OPERATORS = {
    "selective_scan": (dynamicvis_kernels.selective_scan, naive_scan.selective_scan, scan_inputs),
    "causal_conv_silu": (dynamicvis_kernels.causal_conv_silu, naive_conv.causal_conv_silu, conv_inputs),
}


def results(operator: Operator, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output and the gradient of every input, for a fixed gradient of the output."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = operator(*inputs)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_close(actual: list[torch.Tensor], expected: list[torch.Tensor], bound: float) -> None:
    assert len(actual) == len(expected)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        error, magnitude = (one - other).abs().max(), other.abs().max()
        assert error <= bound * magnitude, f"result {index}: {error:.1e} > {bound:.1e} of {magnitude:.1e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", OPERATORS)
def test_cpu_kernel_equals_naive(name: str, length: int, channels: int, dtype: torch.dtype) -> None:
    operator, naive, make_inputs = OPERATORS[name]
    inputs = make_inputs(length, channels, dtype)
    assert_close(results(operator, inputs), results(naive, inputs), tolerance(dtype, length))


@pytest.mark.parametrize("name", OPERATORS)
def test_naive_gradients_by_finite_differences(name: str) -> None:
    _, naive, make_inputs = OPERATORS[name]
    inputs = [tensor.requires_grad_() for tensor in make_inputs(5, 3, torch.float64, 2, 3)]
    assert torch.autograd.gradcheck(naive, inputs)


def test_scan_by_hand() -> None:
    """One channel, one state, three steps, written out from the definition."""
    rate, skip, bias = -0.7, 0.3, 0.1
    u = torch.tensor([[0.5, -1.0, 2.0], [0.2, 0.4, -0.6]], dtype=torch.float64)
    delta = torch.tensor([[0.1, -0.2, 0.3], [0.7, 0.0, -0.5]], dtype=torch.float64)
    b, c = u.cos(), delta.sin()
    z = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for direction, order in ((0, (0, 1, 2)), (1, (2, 1, 0))):
        state = 0.0
        for t in order:
            d = math.log1p(math.exp(float(delta[direction, t]) + bias))
            x = float(u[direction, t])
            state = math.exp(d * rate) * state + d * x * float(b[direction, t])
            expected[t] += float(c[direction, t]) * state + skip * x
    expected *= 0.5 * F.silu(z)

    def shaped(value: torch.Tensor) -> torch.Tensor:
        return value.reshape(2, 1, 3, 1)

    scalar = torch.ones(1, dtype=torch.float64)
    inputs = (shaped(u), shaped(delta), rate * scalar[:, None], shaped(b), shaped(c))
    actual = dynamicvis_kernels.selective_scan(*inputs, skip * scalar, z.reshape(1, 3, 1), bias * scalar)
    torch.testing.assert_close(actual.flatten(), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("states", [1, 5, 32])
def test_any_number_of_states(states: int) -> None:
    inputs = scan_inputs(40, 24, torch.float32, states=states)
    actual = results(dynamicvis_kernels.selective_scan, inputs)
    assert_close(actual, results(naive_scan.selective_scan, inputs), tolerance(torch.float32, 40))


@pytest.mark.parametrize("width", [1, 2, 7])
def test_any_width_of_convolution(width: int) -> None:
    inputs = conv_inputs(5, 24, torch.float32, width=width)
    actual = results(dynamicvis_kernels.causal_conv_silu, inputs)
    assert_close(actual, results(naive_conv.causal_conv_silu, inputs), tolerance(torch.float32, 5))


@pytest.mark.parametrize("name", OPERATORS)
def test_strided_inputs(name: str) -> None:
    """Slices of a wider tensor, and tensors whose columns are not dense, give the numbers of their copies."""
    operator, _, make_inputs = OPERATORS[name]
    inputs = make_inputs(17, 24, torch.float32)
    sliced = [torch.cat([tensor, tensor], -1)[..., : tensor.shape[-1]] for tensor in inputs]
    scattered = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in inputs]
    expected = results(operator, inputs)
    for views in (sliced, scattered):
        output = operator(*views)
        assert torch.equal(output, expected[0])


@pytest.mark.parametrize("value", [-200.0, 200.0, float("inf"), float("nan")])
def test_extreme_steps_follow_naive(value: float) -> None:
    """Steps of zero, huge steps, and non-finite values end as in the naive version, and never stall."""
    inputs = scan_inputs(6, 24, torch.float32)
    inputs[1][0, 1, 2, 5] = value
    actual = dynamicvis_kernels.selective_scan(*inputs)
    expected = naive_scan.selective_scan(*inputs)
    assert torch.equal(actual.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    error = (actual - expected)[finite].abs().max() / expected[finite].abs().max()
    assert error <= tolerance(torch.float32, 6)


@pytest.mark.parametrize("name", OPERATORS)
def test_registration(name: str) -> None:
    """Schema, shape function and autograd registration hold together, also under ahead-of-time tracing."""
    operator = getattr(torch.ops.dynamicvis, name).default
    inputs = [tensor.requires_grad_() for tensor in OPERATORS[name][2](5, 8, torch.float32)]
    torch.library.opcheck(operator, tuple(inputs))


@pytest.mark.parametrize(("length", "batch"), [(0, 2), (4, 0)])
@pytest.mark.parametrize("name", OPERATORS)
def test_empty_sequence_or_batch(name: str, length: int, batch: int) -> None:
    """Nothing comes out, and the parameters' gradients are zero."""
    operator, _, make_inputs = OPERATORS[name]
    inputs = make_inputs(length, 8, torch.float32, batch)
    output, *gradients = results(operator, inputs)
    assert output.shape[-3:] == (batch, length, 8)
    for tensor, gradient in zip(inputs, gradients, strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_number_of_threads_does_not_change_a_bit() -> None:
    inputs = scan_inputs(100, 40, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(dynamicvis_kernels.selective_scan, inputs)
        torch.set_num_threads(4)
        four = results(dynamicvis_kernels.selective_scan, inputs)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda x: x[0], r"u must have shape \(2, 3, 4, 8\), got \(3, 4, 8\)"),
        (2, lambda x: x[:5], r"A must have shape \(8, 16\), got \(5, 16\)"),
        (3, lambda x: x.double(), "B must be torch.float32 on cpu like u, got torch.float64"),
        (6, lambda x: x[0], "z must have 3 dimensions"),
    ],
)
def test_scan_names_the_wrong_argument(position: int, change: Callable, message: str) -> None:
    inputs = scan_inputs(4, 8, torch.float32)
    inputs[position] = change(inputs[position])
    with pytest.raises(ValueError, match=message):
        dynamicvis_kernels.selective_scan(*inputs)


def test_convolution_names_the_wrong_argument() -> None:
    x, weight, bias = conv_inputs(4, 8, torch.float32)
    with pytest.raises(ValueError, match=r"weight must have shape \(8, 4\), got \(6, 4\)"):
        dynamicvis_kernels.causal_conv_silu(x, weight[:6], bias)
    with pytest.raises(ValueError, match=r"x must be float32 or float64, got torch.float16"):
        dynamicvis_kernels.causal_conv_silu(x.half(), weight.half(), bias.half())
