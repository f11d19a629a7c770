"""The Triton kernels against the naive versions in float64."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Sequence
from typing import Any

import dynamicvis_kernels
import pytest
import torch
from dynamicvis_kernels.causal_conv import naive as naive_conv
from dynamicvis_kernels.selective_scan import naive as naive_scan
from dynamicvis_kernels.token_routing import naive as naive_routing

pytest.importorskip("triton")
TYPES = pytest.mark.parametrize(
    ("dtype", "parameter"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float16, torch.float16)],
    ids=["float32", "bfloat16 and float32 parameters", "float16"],
)


def tolerance(dtype: torch.dtype) -> float:
    """Of a result's largest magnitude: its rounding to the type, and the float32 arithmetic of a short sequence."""
    return torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def scan_inputs(
    batch: int, length: int, channels: int, states: int, dtype: torch.dtype, parameter: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    rows, small = (2, batch, length, channels), (2, batch, length, states)
    return [
        normal(*rows).to(dtype),
        normal(*rows, seed=1).to(dtype),
        (-0.1 - 8 * normal(channels, states).abs()).to(parameter),
        normal(*small, seed=2).to(dtype),
        normal(*small, seed=3).to(dtype),
        normal(channels).to(parameter),
        normal(batch, length, channels).to(dtype),
        normal(channels, seed=1).to(parameter),
    ]


def conv_inputs(
    batch: int, length: int, channels: int, width: int, dtype: torch.dtype, parameter: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    return [
        normal(batch, length, channels).to(dtype),
        normal(channels, width).to(parameter),
        normal(channels).to(parameter),
    ]


def routing_inputs(dtype: torch.dtype, parameter: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """tokens, mixed, weights and indices of two sequences of 11 tokens, of which 4 are selected."""
    indices = torch.stack([torch.randperm(11, generator=torch.Generator().manual_seed(seed))[:4] for seed in range(2)])
    weights = normal(2, 11).softmax(1).to(parameter)
    return [normal(2, 11, 21).to(dtype), normal(2, 4, 21).to(dtype), weights, indices]


def split(inputs: Sequence[Any]) -> tuple[list[torch.Tensor], list[Any]]:
    """The differentiable inputs, which come first, and the others."""
    tensors = [value for value in inputs if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return tensors, list(inputs[len(tensors) :])


def expected_results(naive: Callable, inputs: Sequence[Any], grad: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients of the naive version in float64."""
    tensors, others = split(inputs)
    tensors = [tensor.cpu().double().requires_grad_() for tensor in tensors]
    output = naive(*tensors, *(other.cpu() if isinstance(other, torch.Tensor) else other for other in others))
    return [output.detach(), *torch.autograd.grad(output, tensors, grad.cpu().double())]


def assert_close(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], scale: float = 1.0) -> None:
    assert len(actual) == len(expected)
    for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
        error, magnitude = (one.cpu().double() - other).abs().max(), other.abs().max()
        bound = scale * tolerance(one.dtype)
        assert error <= bound * magnitude, f"result {index}: {error:.1e} > {bound:.1e} of {magnitude:.1e}"


def check_plans(
    module: Any, naive: Callable, inputs: list[Any], device: torch.device, prefix: str = "", **blocking: int
) -> None:
    """Both plans with a small blocking, so that a small problem crosses every border."""
    from dynamicvis_kernels._triton import execute

    cut = module.Blocking(**blocking)
    inputs = [value.to(device) if isinstance(value, torch.Tensor) else value for value in inputs]
    launches, output = getattr(module, f"plan_{prefix}forward")(*inputs, blocking=cut)
    execute(launches)
    grad = normal(*output.shape).to(output)
    launches, finish = getattr(module, f"plan_{prefix}backward")(grad, *inputs, blocking=cut)
    execute(launches)
    gradients = finish()
    tensors, _ = split(inputs)
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in tensors]
    assert output.dtype == tensors[0].dtype
    assert_close([output, *gradients], expected_results(naive, inputs, grad))


@TYPES
def test_scan_over_chunks_and_blocks(dtype: torch.dtype, parameter: torch.dtype, device: torch.device) -> None:
    from dynamicvis_kernels.selective_scan import triton

    inputs = scan_inputs(1, 7, 5, 3, dtype, parameter)
    check_plans(triton, naive_scan.selective_scan, inputs, device, channels=4, gradient_channels=2, steps=2, groups=2)


@pytest.mark.parametrize(("batch", "length", "states"), [(2, 1, 1), (1, 3, 17), (1, 8, 2)])
def test_scan_of_other_sizes(batch: int, length: int, states: int, device: torch.device) -> None:
    """A single step, states beyond 16, a length that fills its chunks."""
    from dynamicvis_kernels.selective_scan import triton

    inputs = scan_inputs(batch, length, 3, states, torch.float32)
    check_plans(triton, naive_scan.selective_scan, inputs, device, channels=4, gradient_channels=4, steps=2, groups=1)


@TYPES
def test_convolution_over_blocks(dtype: torch.dtype, parameter: torch.dtype, device: torch.device) -> None:
    from dynamicvis_kernels.causal_conv import triton

    inputs = conv_inputs(2, 11, 5, 4, dtype, parameter)
    check_plans(triton, naive_conv.causal_conv_silu, inputs, device, positions=4, channels=4)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_convolution_of_any_width(width: int, device: torch.device) -> None:
    from dynamicvis_kernels.causal_conv import triton

    inputs = conv_inputs(1, 5, 3, width, torch.float32)
    check_plans(triton, naive_conv.causal_conv_silu, inputs, device, positions=2, channels=4)


@TYPES
def test_routing_over_blocks(dtype: torch.dtype, parameter: torch.dtype, device: torch.device) -> None:
    from dynamicvis_kernels.token_routing import triton

    tokens, mixed, weights, indices = routing_inputs(dtype, parameter)
    blocking = {"rows": 2, "channels": 8}
    check_plans(triton, naive_routing.gather_tokens, [tokens, indices], device, "gather_", **blocking)
    for residual in ("softmax", "identity"):
        inputs = [tokens, mixed, weights, indices, residual]
        check_plans(triton, naive_routing.scatter_tokens, inputs, device, "scatter_", **blocking)


OPERATORS = {
    "selective_scan": (naive_scan.selective_scan, lambda: scan_inputs(1, 3, 5, 2, torch.float32)),
    "causal_conv_silu": (naive_conv.causal_conv_silu, lambda: conv_inputs(2, 3, 5, 4, torch.float32)),
    "gather_tokens": (naive_routing.gather_tokens, lambda: routing_inputs(torch.float32)[::3]),
    "scatter_tokens": (naive_routing.scatter_tokens, lambda: [*routing_inputs(torch.float32), "softmax"]),
}


def run(name: str, inputs: Sequence[Any], device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Output and gradients of an operator as a user calls it, and the gradient that went in."""
    tensors, others = split(inputs)
    tensors = [tensor.to(device).requires_grad_() for tensor in tensors]
    others = [other.to(device) if isinstance(other, torch.Tensor) else other for other in others]
    output = getattr(dynamicvis_kernels, name)(*tensors, *others)
    grad = normal(*output.shape).to(output)
    return [output.detach(), *torch.autograd.grad(output, tensors, grad)], grad


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_with_its_own_blocking(name: str, device: torch.device) -> None:
    naive, make_inputs = OPERATORS[name]
    inputs = make_inputs()
    actual, grad = run(name, inputs, device)
    assert_close(actual, expected_results(naive, inputs, grad))


@pytest.mark.parametrize("name", OPERATORS)
def test_strided_inputs(name: str, device: torch.device) -> None:
    """Slices of wider tensors, and tensors whose last dimension is not dense, give the bits of their copies."""
    _, make_inputs = OPERATORS[name]
    tensors, others = split(make_inputs())
    operator = getattr(dynamicvis_kernels, name)
    others = [other.to(device) if isinstance(other, torch.Tensor) else other for other in others]
    tensors = [tensor.to(device) for tensor in tensors]
    expected = operator(*tensors, *others)
    sliced = [torch.cat([tensor, tensor], -1)[..., : tensor.shape[-1]] for tensor in tensors]
    scattered = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in tensors]
    for views in (sliced, scattered):
        assert torch.equal(operator(*views, *others), expected)


@pytest.mark.parametrize(("length", "batch"), [(0, 2), (3, 0)])
@pytest.mark.parametrize("name", ["selective_scan", "causal_conv_silu"])
def test_empty_sequence_or_batch(name: str, length: int, batch: int, device: torch.device) -> None:
    """Nothing comes out, and the parameters' gradients are zero."""
    make = {"selective_scan": lambda: scan_inputs(batch, length, 5, 2, torch.float32)}
    make["causal_conv_silu"] = lambda: conv_inputs(batch, length, 5, 4, torch.float32)
    inputs = make[name]()
    (output, *gradients), _ = run(name, inputs, device)
    assert output.shape[-3:] == (batch, length, 5)
    for tensor, gradient in zip(inputs, gradients, strict=True):
        assert torch.equal(gradient.cpu(), torch.zeros_like(tensor))


def test_nothing_selected(device: torch.device) -> None:
    tokens, mixed, weights, indices = (value.to(device) for value in routing_inputs(torch.float32))
    assert dynamicvis_kernels.gather_tokens(tokens, indices[:, :0]).shape == (2, 0, 21)
    out = dynamicvis_kernels.scatter_tokens(tokens, mixed[:, :0], weights, indices[:, :0])
    torch.testing.assert_close(out, tokens * (1 + weights[..., None]))


@pytest.mark.parametrize("residual", ["softmax", "identity"])
def test_scatter_in_place(residual: str, device: torch.device) -> None:
    """The same bits, in rows of a wider tensor whose other columns stay as they are."""
    tokens, mixed, weights, indices = (value.to(device) for value in routing_inputs(torch.bfloat16))
    expected = dynamicvis_kernels.scatter_tokens(tokens, mixed, weights, indices, residual)
    wide = torch.cat([tokens, tokens], -1)
    view = wide[..., :21]
    assert dynamicvis_kernels.scatter_tokens_(view, mixed, weights, indices, residual) is view
    assert torch.equal(view, expected)
    assert torch.equal(wide[..., 21:], tokens)


@pytest.mark.parametrize("value", [-200.0, 200.0, float("inf"), float("nan")])
def test_extreme_steps_follow_naive(value: float, device: torch.device) -> None:
    inputs = scan_inputs(1, 4, 3, 2, torch.float32)
    inputs[1][0, 0, 1, 2] = value
    expected = naive_scan.selective_scan(*inputs)
    actual = dynamicvis_kernels.selective_scan(*(tensor.to(device) for tensor in inputs)).cpu()
    assert torch.equal(actual.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    assert_close([actual[finite]], [expected[finite].double()])


@pytest.mark.parametrize("name", ["softplus", "sigmoid"])
def test_functions_keep_relative_precision(name: str, device: torch.device) -> None:
    """However small the result: the exponential of x has an error of about x eps, nothing else is larger."""
    import triton
    import triton.language as tl
    from dynamicvis_kernels import _triton

    function = getattr(_triton, name)

    @triton.jit
    def kernel(x_ptr, y_ptr, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
        offset = tl.arange(0, SIZE)
        tl.store(y_ptr + offset, FUNCTION(tl.load(x_ptr + offset)))

    x = torch.linspace(-60, 60, 1024, device=device)
    y = torch.empty_like(x)
    kernel[(1,)](x, y, FUNCTION=function, SIZE=1024)
    expected = getattr(torch.nn.functional, name)(x.double())
    relative = ((y.double() - expected) / expected).abs()
    assert (relative <= torch.finfo(torch.float32).eps * (4 + x.double().abs())).all()


def far_apart(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with rows so far apart that a 32-bit offset would wrap around; only the pages touched exist."""
    apart = 2**31 // (tensor.shape[-2] - 1) + 64
    assert (tensor.shape[-2] - 1) * apart > 2**31
    size = ((tensor.shape[-2] - 1) * apart + 64) * tensor.element_size()
    no_reserve = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    strides = [8] * (tensor.ndim - 2) + [apart, 1]
    view = torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, strides)
    return view.copy_(tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="the flag for memory that is mapped lazily is Linux's")
@pytest.mark.parametrize("name", OPERATORS)
def test_offsets_beyond_32_bits(name: str, device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("a GPU's memory is not mapped lazily")
    inputs = {
        "selective_scan": lambda: scan_inputs(1, 3, 5, 2, torch.bfloat16),
        "causal_conv_silu": lambda: conv_inputs(1, 3, 5, 2, torch.bfloat16),
        "gather_tokens": lambda: [normal(1, 3, 5).bfloat16(), torch.tensor([[2, 0]])],
        "scatter_tokens": lambda: [
            *(normal(1, 3, 5).bfloat16(), normal(1, 2, 5).bfloat16(), normal(1, 3).bfloat16()),
            *(torch.tensor([[2, 0]]), "identity"),
        ],
    }[name]()
    operator = getattr(dynamicvis_kernels, name)
    assert torch.equal(operator(far_apart(inputs[0]), *inputs[1:]), operator(*inputs))


def test_same_bits_in_every_run(device: torch.device) -> None:
    inputs = scan_inputs(1, 3, 5, 2, torch.float32)
    first, _ = run("selective_scan", inputs, device)
    second, _ = run("selective_scan", inputs, device)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_float64_is_refused(device: torch.device) -> None:
    x, weight, bias = (tensor.double().to(device) for tensor in conv_inputs(1, 3, 2, 2, torch.float32))
    message = "x must be one of float32, float16, bfloat16 on triton kernels, got torch.float64"
    with pytest.raises(ValueError, match=message):
        dynamicvis_kernels.causal_conv_silu(x, weight, bias)


@pytest.mark.parametrize("name", OPERATORS)
def test_registration(name: str, device: torch.device) -> None:
    """Schema, shape function and autograd registration hold together."""
    tensors, others = split(OPERATORS[name][1]())
    inputs = [tensor.to(device).requires_grad_() for tensor in tensors]
    inputs += [other.to(device) if isinstance(other, torch.Tensor) else other for other in others]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(getattr(torch.ops.dynamicvis, name).default, tuple(inputs), test_utils=checks)
