"""The CPU kernels against the naive versions, and the naive versions against float64 differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import dynamicvis_kernels
import pytest
import torch
from dynamicvis_kernels.causal_conv import naive as naive_conv
from dynamicvis_kernels.selective_scan import naive as naive_scan
from dynamicvis_kernels.token_routing import naive as naive_routing
from dynamicvis_kernels.token_routing.cpu import add_rows_, score_rows
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_keep_relative_precision(dtype: torch.dtype) -> None:
    """However small the result: the exponential of x has an error of about x eps, nothing else is larger."""
    x = torch.linspace(-60, 60, 1000, dtype=dtype)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    silu = dynamicvis_kernels.causal_conv_silu(x[None, None], ones[:, None], zeros)[0, 0, 0]
    sequence = ones.expand(2, 1, 1, -1)
    per_state = torch.ones(2, 1, 1, 1, dtype=dtype)
    softplus = dynamicvis_kernels.selective_scan(
        sequence, x.expand(2, 1, 1, -1), -ones[:, None], per_state, per_state, zeros, 64 * ones[None, None], zeros
    ).flatten()
    for actual, expected in ((silu, F.silu(x.double())), (softplus, 64 * x.double().logaddexp(zeros.double()))):
        relative = ((actual.double() - expected) / expected).abs()[x != 0]
        assert (relative <= torch.finfo(dtype).eps * (6 + x.double().abs()[x != 0])).all()


@pytest.mark.parametrize("states", [5, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decay_keeps_relative_precision(states: int, dtype: torch.dtype) -> None:
    """The second output is what is left of the first input; a rate of zero leaves all of it."""
    exponents = torch.linspace(0, 60, 1000, dtype=dtype)
    zeros, step = torch.zeros_like(exponents), torch.full((2, 1, 2, 1000), 64.0, dtype=dtype)
    u = torch.zeros(2, 1, 2, 1000, dtype=dtype)
    u[:, :, 0] = 1
    rates = (-exponents / 64)[:, None].expand(-1, states).contiguous()
    only_one = torch.zeros(2, 1, 2, states, dtype=dtype)
    only_one[..., states - 1] = 1
    gate = torch.full((1, 2, 1000), 64.0, dtype=dtype)
    left = dynamicvis_kernels.selective_scan(u, step, rates, only_one, only_one, zeros, gate, zeros)[0, 1] / (64 * 32)
    relative = left.double() / (-exponents.double()).exp() - 1
    assert (relative.abs() <= torch.finfo(dtype).eps * (4 + 2 * exponents.double())).all()
    assert left[0] == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_nan_among_the_rates_shows(dtype: torch.dtype) -> None:
    """Also one whose low bits are set, which arithmetic on the bits of an exponent would carry away."""
    inputs = scan_inputs(6, 24, dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    inputs[2][3, 2] = (torch.tensor(torch.nan, dtype=dtype).view(bits) + 5).view(dtype)
    assert inputs[2][3, 2].isnan()
    assert dynamicvis_kernels.selective_scan(*inputs)[..., 3].isnan().all()


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
        (5, lambda x: x.bfloat16(), "D must be torch.float32 on cpu like u, got torch.bfloat16"),
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
    with pytest.raises(
        ValueError, match=r"weight must be torch.float16 or torch.float32 on cpu like x, got .*bfloat16"
    ):
        dynamicvis_kernels.causal_conv_silu(x.half(), weight.bfloat16(), bias)
    with pytest.raises(ValueError, match=r"x must be one of float32, float64, .* on cpu kernels, got torch.int64"):
        dynamicvis_kernels.causal_conv_silu(x.long(), weight, bias)


@pytest.mark.parametrize("backend", ["naive", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_low_precision_is_storage_only(
    name: str, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-precision sequences beside float32 parameters give float32's numbers, rounded once."""
    monkeypatch.setenv("DYNAMICVIS_BACKEND", backend)
    operator, naive, make_inputs = OPERATORS[name]
    sequences = {"selective_scan": (0, 1, 3, 4, 6), "causal_conv_silu": (0,)}[name]
    inputs = [
        tensor.to(dtype) if index in sequences else tensor
        for index, tensor in enumerate(make_inputs(17, 24, torch.float32))
    ]
    actual = results(operator, inputs)
    wide = [tensor.double().requires_grad_() for tensor in inputs]
    output = naive(*wide)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=dtype).double()
    expected = [output.detach(), *torch.autograd.grad(output, wide, grad)]
    assert [tensor.dtype for tensor in actual] == [dtype, *(tensor.dtype for tensor in inputs)]
    for one, other in zip(actual, expected, strict=True):
        error, magnitude = (one.double() - other).abs().max(), other.abs().max()
        assert error <= (torch.finfo(one.dtype).eps + tolerance(torch.float32, 17)) * magnitude


@pytest.mark.parametrize("backend", ["naive", "cpu"])
def test_autocast(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of different types are promoted, and nothing inside runs in the low type."""
    monkeypatch.setenv("DYNAMICVIS_BACKEND", backend)
    u, delta, *others = scan_inputs(17, 24, torch.float32)
    with pytest.raises(ValueError, match=r"delta must be torch\.float32"):
        dynamicvis_kernels.selective_scan(u, delta.bfloat16(), *others)
    rounded = delta.bfloat16()
    expected = dynamicvis_kernels.selective_scan(u, rounded.float(), *others)
    conv = conv_inputs(17, 24, torch.float32)
    convolved = dynamicvis_kernels.causal_conv_silu(*conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dynamicvis_kernels.selective_scan(u, rounded, *others), expected)
        assert torch.equal(dynamicvis_kernels.causal_conv_silu(*conv), convolved)
    tokens, mixed, weights, indices = routing_inputs()
    low = [mixed.bfloat16(), weights.bfloat16()]
    expected = dynamicvis_kernels.scatter_tokens(tokens, *(tensor.float() for tensor in low), indices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dynamicvis_kernels.scatter_tokens(tokens, *low, indices), expected)


def routing_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    tokens, mixed, weights = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((2, 70, 24), (2, 9, 24), (2, 70))
    )
    indices = torch.stack([torch.randperm(70, generator=generator)[:9] for _ in range(2)])
    return tokens, mixed, weights, indices


@pytest.mark.parametrize("residual", ["softmax", "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_routing_by_its_definition(dtype: torch.dtype, residual: str) -> None:
    """Token by token, differentiable and not, into new memory and in place."""
    tokens, mixed, weights, indices = routing_inputs(dtype)
    wide = tokens.double()
    expected = wide * (1 + weights.double()[..., None]) if residual == "softmax" else wide.clone()
    for b in range(2):
        for k, n in enumerate(indices[b].tolist()):
            expected[b, n] = wide[b, n] + weights[b, n].double() * mixed[b, k].double()
    bound = {"rtol": torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            scattered = dynamicvis_kernels.scatter_tokens(tokens, mixed, weights, indices, residual)
            gathered = dynamicvis_kernels.gather_tokens(tokens, indices)
        torch.testing.assert_close(scattered.double(), expected, **bound)
        assert torch.equal(gathered, torch.stack([tokens[b, indices[b]] for b in range(2)]))
    with torch.no_grad():
        wider = torch.cat([tokens, tokens], -1)
        view = wider[..., :24]
        assert dynamicvis_kernels.scatter_tokens_(view, mixed, weights, indices, residual) is view
    torch.testing.assert_close(view.double(), expected, **bound)
    assert torch.equal(wider[..., 24:], tokens)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 3, 4, 7, 16])
def test_scores_and_row_means(width: int, dtype: torch.dtype) -> None:
    """Rows of the grid that four does not divide, channels that no vector does, slices of wider rows."""
    generator = torch.Generator().manual_seed(width)
    wide = torch.randn(2, 3 * width, 29, generator=generator, dtype=dtype)
    tokens, router = wide[..., :24], torch.randn(24, generator=generator, dtype=dtype)
    means = torch.zeros(2, 5, 24, dtype=dtype)
    scores = score_rows(tokens, router, means[:, :3])
    bound = 24 * torch.finfo(dtype).eps
    torch.testing.assert_close(scores, tokens @ router, rtol=bound, atol=bound)
    expected = F.pad(tokens.unflatten(1, (3, width)).mean(2), (0, 0, 0, 2))
    torch.testing.assert_close(means, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("residual", ["softmax", "identity"])
def test_added_tokens_and_their_scores_in_one_walk(residual: str, dtype: torch.dtype) -> None:
    """Against scattering what was mixed and what it was before, then scoring; without a router nothing is scored."""
    tokens, mixed, weights, indices = routing_inputs(dtype)
    router = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=dtype)
    before = torch.stack([tokens[b, indices[b]] for b in range(2)])
    expected = dynamicvis_kernels.scatter_tokens(tokens, mixed + before, weights, indices, residual)
    bound = 24 * torch.finfo(dtype).eps
    for chosen in (router, None):
        added, means = tokens.clone(), torch.zeros(2, 7, 24, dtype=dtype)
        scores = add_rows_(added, mixed, weights, indices, residual, chosen, means)
        torch.testing.assert_close(added, expected, rtol=bound, atol=bound)
        if chosen is None:
            assert scores is None
            assert not means.any()
        else:
            torch.testing.assert_close(scores, expected @ router, rtol=4 * bound, atol=4 * bound)
            torch.testing.assert_close(means, expected.unflatten(1, (7, 10)).mean(2), rtol=bound, atol=bound)


@pytest.mark.parametrize("residual", ["softmax", "identity"])
def test_naive_routing_gradients_by_finite_differences(residual: str) -> None:
    tokens, mixed, weights, indices = routing_inputs(torch.float64)
    inputs = [tensor[..., :3].clone() for tensor in (tokens[:, :70], mixed)] + [weights.clone()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda *values: naive_routing.scatter_tokens(*values, indices, residual), inputs)


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda x: x[0], "tokens must have 3 dimensions"),
        (1, lambda x: x[:, :5], r"mixed must have shape \(2, 9, 24\), got \(2, 5, 24\)"),
        (2, lambda x: x[:, :, None], r"weights must have shape \(2, 70\), got \(2, 70, 1\)"),
        (3, lambda x: x.int(), "indices must be torch.int64 on cpu for 2 batch elements, got torch.int32"),
        (3, lambda x: x[:1], "indices must be torch.int64 on cpu for 2 batch elements, got .* for 1"),
        (3, lambda x: x + 70, r"indices must lie in \[0, 70\), got \d+ to 1\d\d"),
        (3, lambda x: x - 70, r"indices must lie in \[0, 70\), got -\d+ to -\d"),
    ],
)
def test_routing_names_the_wrong_argument(position: int, change: Callable, message: str) -> None:
    inputs = list(routing_inputs())
    inputs[position] = change(inputs[position])
    with pytest.raises(ValueError, match=message):
        dynamicvis_kernels.scatter_tokens(*inputs)
    if position in (0, 3):
        with pytest.raises(ValueError, match=message):
            dynamicvis_kernels.gather_tokens(inputs[0], inputs[3])


def test_unknown_residual() -> None:
    with pytest.raises(ValueError, match="residual must be one of softmax, identity, got 'sum'"):
        dynamicvis_kernels.scatter_tokens(*routing_inputs(), "sum")
