"""What the kernels refuse instead of reading the wrong memory, and the empty shapes that they take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import dynamicvis_kernels
import pytest
import torch
from dynamicvis_kernels import _parallel
from dynamicvis_kernels.normalization import layer_norm_, rms_norm
from dynamicvis_kernels.resampling import add_resampled_
from dynamicvis_kernels.streaming import stream_both_ways
from dynamicvis_kernels.token_routing import naive as naive_routing
from dynamicvis_kernels.token_routing.cpu import add_rows_, gather_rows, scatter_rows_, score_rows

BATCH, LENGTH, CHANNELS, STATES, RANK = 2, 6, 5, 3, 2
Arguments = dict[str, Any]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def indices() -> torch.Tensor:
    return torch.tensor([[4, 1, 0], [2, 5, 3]])


def rows(*leading: int) -> torch.Tensor:
    return normal(*leading, BATCH, LENGTH, CHANNELS)


def scan_arguments() -> Arguments:
    return dict(
        u=rows(2), delta=rows(2), A=-normal(CHANNELS, STATES).abs(), B=normal(2, BATCH, LENGTH, STATES),
        C=normal(2, BATCH, LENGTH, STATES), D=normal(CHANNELS), z=rows(), delta_bias=normal(CHANNELS),
    )  # fmt: skip


def convolution_arguments() -> Arguments:
    return dict(x=rows(), weight=normal(CHANNELS, 4), bias=normal(CHANNELS))


def scatter_arguments() -> Arguments:
    return dict(tokens=rows(), mixed=normal(BATCH, 3, CHANNELS), weights=normal(BATCH, LENGTH), indices=indices())


def stream_arguments() -> Arguments:
    return dict(
        x=rows(), z=rows(), conv_weight=normal(CHANNELS, 4), conv_bias=normal(CHANNELS),
        x_proj=normal(RANK + 2 * STATES, CHANNELS), dt_proj=normal(CHANNELS, RANK), dt_bias=normal(CHANNELS),
        A=-normal(CHANNELS, STATES).abs(), D=normal(CHANNELS), out=torch.zeros(BATCH, LENGTH, CHANNELS),
    )  # fmt: skip


OPERATORS: dict[str, Callable[[], Arguments]] = {
    "selective_scan": scan_arguments,
    "causal_conv_silu": convolution_arguments,
    "gather_tokens": lambda: dict(tokens=rows(), indices=indices()),
    "scatter_tokens": lambda: dict(**scatter_arguments(), residual="softmax"),
}
KERNELS: dict[str, tuple[Callable[..., Any], Callable[[], Arguments]]] = {
    "layer_norm_": (layer_norm_, lambda: dict(tokens=rows(), weight=normal(5), bias=normal(5), eps=1e-6)),
    "rms_norm": (
        rms_norm,
        lambda: dict(tokens=rows(), weight=normal(5), eps=1e-6, out=torch.zeros(BATCH, 3, CHANNELS), indices=indices()),
    ),
    "score_rows": (
        score_rows,
        lambda: dict(tokens=rows(), router=normal(CHANNELS), means=torch.zeros(BATCH, 3, CHANNELS)),
    ),
    "gather_rows": (gather_rows, lambda: dict(tokens=rows(), indices=indices())),
    "scatter_rows_": (scatter_rows_, lambda: dict(**scatter_arguments(), residual="identity")),
    "add_rows_": (
        add_rows_,
        lambda: dict(
            **scatter_arguments(), residual="softmax", router=normal(CHANNELS), means=torch.zeros(BATCH, 3, CHANNELS)
        ),
    ),
    "add_resampled_": (
        add_resampled_,
        lambda: dict(tokens=rows(), maps=normal(1, 4, 5, CHANNELS), vertical=normal(2, 4), horizontal=normal(3, 5)),
    ),
    "stream_both_ways": (stream_both_ways, stream_arguments),
}
WRITTEN = {
    "layer_norm_": "tokens",
    "rms_norm": "out",
    "score_rows": "means",
    "scatter_rows_": "tokens",
    "add_rows_": "tokens",
    "add_resampled_": "tokens",
    "stream_both_ways": "out",
}


# Axes on which no other argument depends, and floats whose type no other shares.
FREE = {
    "causal_conv_silu": {("x", 0), ("x", 1), ("x", "dtype"), ("weight", 1)},
    "gather_tokens": {("tokens", 1), ("tokens", 2), ("tokens", "dtype"), ("indices", 1)},
    "gather_rows": {("tokens", 1), ("tokens", 2), ("tokens", "dtype"), ("indices", 1)},
    "layer_norm_": {("tokens", 0), ("tokens", 1)},
    "rms_norm": {("tokens", 1)},
    "score_rows": {("means", 1)},
    "add_rows_": {("means", 1)},
    "add_resampled_": {("tokens", 0)},
    "stream_both_ways": {("conv_weight", 1)},
}


def _spoiled(tensor: torch.Tensor, name: str, free: set[tuple[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensor, wrong in one way after the other."""
    for axis in range(tensor.ndim):
        if (name, axis) not in free:
            yield f"axis {axis} one longer", torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
            yield f"axis {axis} one shorter", tensor.narrow(axis, 0, tensor.shape[axis] - 1)
            yield f"axis {axis} empty", tensor.narrow(axis, 0, 0)
    yield "no dimension", tensor.flatten()[0]
    yield "a dimension more", tensor[None]
    yield "a dimension less", tensor[0]
    if tensor.is_floating_point():
        lower = () if (name, "dtype") in free else (torch.float64, torch.bfloat16)
        for dtype in (*lower, torch.int8, torch.bool, torch.complex64):
            yield str(dtype), tensor.to(dtype)
    else:
        yield "int32", tensor.int()
        yield "too high", tensor + LENGTH
        yield "negative", tensor - LENGTH
    yield "another device", tensor.to("meta")


def _cases(operator: str, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            for fault, spoiled in _spoiled(value, name, FREE.get(operator, set())):
                yield f"{name}: {fault}", {**arguments, name: spoiled}


def refusal(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """What the function says against its arguments; empty if it takes them."""
    try:
        function(*arguments, **named)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", OPERATORS)
def test_raw_operators_refuse_every_wrong_argument(name: str) -> None:
    """As an exported graph calls them: one argument wrong at a time, forward and backward."""
    arguments = OPERATORS[name]()
    forward = getattr(torch.ops.dynamicvis, name)
    backward = getattr(torch.ops.dynamicvis, f"{name}_backward")
    grad = torch.ones_like(forward(*arguments.values()))
    backward(grad, *arguments.values())
    expected = rf"{name}: |no compiled kernel for device type 'meta'"
    for case, wrong in _cases(name, arguments):
        assert re.match(expected, refusal(forward, *wrong.values())), case
        assert re.match(expected, refusal(backward, grad, *wrong.values())), f"{case}, backward"
    for fault, wrong_grad in _spoiled(grad, "grad", set()):
        assert f"{name}_backward: grad" in refusal(backward, wrong_grad, *arguments.values()), fault


@pytest.mark.parametrize("name", KERNELS)
def test_inference_kernels_refuse_every_wrong_argument(name: str) -> None:
    function, make = KERNELS[name]
    function(**make())
    for case, wrong in _cases(name, make()):
        assert re.match(f"{name}: |an index lies outside", refusal(function, **wrong)), case


@pytest.mark.parametrize(("name", "written"), WRITTEN.items())
def test_kernels_write_only_to_memory_of_its_own(name: str, written: str) -> None:
    """Neither to columns that are not dense, nor to an expanded tensor, nor past a gradient that is asked for."""
    function, make = KERNELS[name]
    arguments = make()
    tensor = arguments[written]
    transposed = tensor.transpose(1, 2).contiguous().transpose(1, 2)
    expanded = tensor[:1].expand(tensor.shape)
    for wrong in (transposed, expanded):
        before = wrong.clone()
        with pytest.raises(ValueError, match=f"{name}: {written} must have"):
            function(**{**arguments, written: wrong})
        assert torch.equal(wrong, before)
    with pytest.raises(ValueError, match=f"{name} has no gradient, but {written} requires one"):
        function(**{**arguments, written: tensor.clone().requires_grad_()})
    with torch.no_grad():
        function(**{**arguments, written: tensor.clone().requires_grad_()})


def test_scatter_in_place_says_that_it_wrote() -> None:
    """Torch then refuses a gradient through what was overwritten; expanded tokens and gradients are refused at once."""
    arguments = scatter_arguments()
    scale = torch.ones(1, requires_grad=True)
    product = (arguments["tokens"] * scale).sum()
    with torch.no_grad():
        dynamicvis_kernels.scatter_tokens_(**arguments)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with pytest.raises(ValueError, match="scatter_tokens_: tokens must have memory of their own"):
        dynamicvis_kernels.scatter_tokens_(**{**arguments, "tokens": normal(1, LENGTH, CHANNELS).expand(BATCH, -1, -1)})
    with pytest.raises(ValueError, match="scatter_tokens_ has no gradient"):
        dynamicvis_kernels.scatter_tokens_(**{**arguments, "weights": arguments["weights"].requires_grad_()})


@pytest.mark.parametrize("name", ["gather_tokens", "scatter_tokens"])
def test_raw_routing_on_the_cpu_has_the_naive_numbers_and_gradients(name: str) -> None:
    """A graph that was exported for a GPU runs on the CPU."""
    arguments = OPERATORS[name]()
    naive = {"gather_tokens": naive_routing.gather_tokens, "scatter_tokens": naive_routing.scatter_tokens}[name]
    for residual in ("softmax", "identity"):
        if name == "scatter_tokens":
            arguments["residual"] = residual
        leaves = [
            v.double().requires_grad_() for v in arguments.values() if torch.is_tensor(v) and v.is_floating_point()
        ]
        others = list(arguments.values())[len(leaves) :]
        outputs = [function(*leaves, *others) for function in (getattr(torch.ops.dynamicvis, name), naive)]
        grad = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(*outputs)
        for one, other in zip(*(torch.autograd.grad(output, leaves, grad) for output in outputs), strict=True):
            torch.testing.assert_close(one, other)


def test_forced_naive_backend_has_no_compiled_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "naive")
    with pytest.raises(ValueError, match=r"is the compiled operator.*unset DYNAMICVIS_BACKEND"):
        torch.ops.dynamicvis.causal_conv_silu(*convolution_arguments().values())


@pytest.mark.parametrize(("batch", "length", "channels"), [(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0)])
def test_nothing_in_nothing_out(batch: int, length: int, channels: int) -> None:
    """No batch, no length, no channel: an empty result, and gradients of zero."""
    scan = [(2, batch, length, channels)] * 2 + [(channels, 2), *[(2, batch, length, 2)] * 2, (channels,)]
    scan += [(batch, length, channels), (channels,)]
    convolution = [(batch, length, channels), (channels, 4), (channels,)]
    for operator, shapes in (
        (dynamicvis_kernels.selective_scan, scan),
        (dynamicvis_kernels.causal_conv_silu, convolution),
    ):
        leaves = [torch.ones(shape, requires_grad=True) for shape in shapes]
        output = operator(*leaves)
        assert output.shape[-3:] == (batch, length, channels)
        for leaf, gradient in zip(leaves, torch.autograd.grad(output, leaves, torch.ones_like(output)), strict=True):
            assert torch.equal(gradient, torch.zeros_like(leaf))


def test_no_state_and_no_tap_are_refused() -> None:
    scan = {**scan_arguments(), "A": torch.ones(CHANNELS, 0), "B": rows(2)[..., :0], "C": rows(2)[..., :0]}
    with pytest.raises(ValueError, match="at least one state"):
        dynamicvis_kernels.selective_scan(**scan)
    with pytest.raises(ValueError, match="at least one tap"):
        dynamicvis_kernels.causal_conv_silu(rows(), torch.ones(CHANNELS, 0), normal(CHANNELS))


def test_another_default_device_does_not_move_the_kernels_memory() -> None:
    """Buffers lie where the tensors are, not where new tensors go."""
    arguments = stream_arguments()
    expected = stream_both_ways(**arguments).clone()
    scan, convolution = scan_arguments(), convolution_arguments()
    results = dynamicvis_kernels.selective_scan(**scan), dynamicvis_kernels.causal_conv_silu(**convolution)
    resampling = KERNELS["add_resampled_"][1]()
    with torch.device("meta"):
        assert torch.equal(stream_both_ways(**arguments), expected)
        assert torch.equal(dynamicvis_kernels.selective_scan(**scan), results[0])
        assert torch.equal(dynamicvis_kernels.causal_conv_silu(**convolution), results[1])
        add_resampled_(**resampling)


def test_more_threads_than_the_scratch_was_made_for_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may change the number of threads between a kernel's two questions for it."""
    entered = []

    class Kernel:
        address = 0

        @staticmethod
        def ctypes(parameters: int) -> None:
            entered.append(parameters)

    monkeypatch.setattr(_parallel, "_compile_kernel", lambda make, dtype: Kernel)
    monkeypatch.setattr(_parallel, "_gomp_parallel", lambda: None)
    monkeypatch.setattr(_parallel, "thread_count", lambda tasks: 4)
    _parallel.Launch(lambda variant: lambda p: None, torch.float32, 100, [], slots=2)()
    assert len(entered) == 2


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_refuse_what_is_no_plain_memory(name: str) -> None:
    """A subclass may have no memory, and a negated view other signs than its memory."""

    class Special(torch.Tensor):
        pass

    function, make = KERNELS[name]
    for key, value in make().items():
        if isinstance(value, torch.Tensor):
            wrong = {**make(), key: value.as_subclass(Special)}
            assert f"{name}: {key} must be" in refusal(function, **wrong)
            if value.is_floating_point():
                wrong = {**make(), key: torch._neg_view(value)}
                assert f"{name}: {key} must be a plain tensor, got a Tensor that is a negated view" in refusal(
                    function, **wrong
                )


def test_routing_without_gradients_is_followed() -> None:
    """A trace and `torch.func` see the tokens move; negated views keep their signs."""
    tokens, mixed, weights, chosen = scatter_arguments().values()
    batch = torch.stack([tokens, tokens + 1])

    def scatter(one: torch.Tensor) -> torch.Tensor:
        return dynamicvis_kernels.scatter_tokens_(one.clone(), mixed, weights, chosen)

    for function in (lambda one: dynamicvis_kernels.gather_tokens(one, chosen), scatter):
        with torch.no_grad():
            expected = [function(one) for one in batch]
            torch.testing.assert_close(torch.jit.trace(function, batch[0], check_trace=False)(batch[1]), expected[1])
            torch.testing.assert_close(torch.func.vmap(function)(batch), torch.stack(expected))
            torch.testing.assert_close(function(torch._neg_view(-tokens)), expected[0])
    with torch.no_grad():
        negated = dynamicvis_kernels.scatter_tokens_(tokens.clone(), torch._neg_view(-mixed), weights, chosen)
    torch.testing.assert_close(negated, expected[0])


@pytest.mark.parametrize("name", OPERATORS)
def test_a_second_derivative_is_refused(name: str) -> None:
    """Torch would take it for zero."""
    arguments = list(OPERATORS[name]().values())
    arguments[0].requires_grad_()
    output = getattr(torch.ops.dynamicvis, name)(*arguments)
    (gradient,) = torch.autograd.grad(output.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=rf"{name} has no second derivative.*DYNAMICVIS_BACKEND=naive"):
        gradient.sum().backward()


def test_scatter_in_place_of_what_it_takes_from() -> None:
    tokens, weights = normal(1, 4, CHANNELS), normal(1, 4).abs()
    order = torch.tensor([[3, 0, 1, 2]])
    expected = dynamicvis_kernels.scatter_tokens(tokens, tokens, weights, order)
    with torch.no_grad():
        assert torch.equal(dynamicvis_kernels.scatter_tokens_(tokens, tokens, weights, order), expected)


def test_an_empty_name_of_a_backend_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "")
    assert dynamicvis_kernels.choose_backend(torch.device("cpu")) == "cpu"
