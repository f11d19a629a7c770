"""Inference in place gives what training computes, whatever the input, its memory and the modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, weight_norm
from torch.utils import _pytree as pytree

from dynamicvis import create_backbone
from dynamicvis.backbone import DynamicVis
from dynamicvis.backbone.workspace import Workspace


def make(bands: int = 3, **overrides: object) -> DynamicVis:
    torch.manual_seed(0)
    backbone = create_backbone("test_nano", in_channels=bands, **overrides)
    nn.init.normal_(backbone.pos_embed)
    return backbone.eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_equal_modes(backbone: DynamicVis, batch: torch.Tensor, in_place: bool | None = None) -> None:
    """The maps under no_grad and inference_mode against those with gradients; whether the work was done in place."""
    used: list[bool] = []
    empty = Workspace.empty

    def note(self: Workspace, *arguments: object) -> torch.Tensor:
        used.append(True)
        return empty(self, *arguments)

    expected = backbone(batch)
    Workspace.empty = note  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            maps = backbone(batch)
        with torch.inference_mode():
            again = backbone(batch)
    finally:
        Workspace.empty = empty  # type: ignore[method-assign]
    # Rounding errors grow with the root of the longest sum, over some hundred tokens of a sequence.
    bound = 16 * torch.finfo(batch.dtype).eps * 1000**0.5
    for one, other, wanted in zip(maps, again, expected, strict=True):
        assert wanted.isfinite().all()
        assert (one - wanted).abs().max() <= bound * wanted.abs().max()
        assert torch.equal(one, other)
    if in_place is not None:
        assert bool(used) == in_place


@pytest.mark.parametrize("bands", range(1, 14))
def test_any_bands_sizes_and_batches(bands: int) -> None:
    """Smaller than the coarsest stride, odd, not square; one image and several."""
    height, width = ((1, 1), (5, 31), (33, 64), (64, 64), (70, 45), (96, 32), (64, 130))[bands % 7]
    backbone = make(bands)
    for batch in (1, 2, 3):
        assert_equal_modes(backbone, images(batch, bands, height, width), in_place=True)
    assert_equal_modes(backbone.double(), images(2, bands, height, width).double(), in_place=True)


@pytest.mark.parametrize("bands", [1, 2, 3])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[:, :1].expand(-1, x.shape[1], -1, -1),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x.flip(2, 3),
        lambda x: x.transpose(2, 3),
        lambda x: torch.cat([x, x], 3)[:, :, 1:, ::2],
        lambda x: torch.complex(x, x).conj().imag,
    ],
    ids=["channels last", "expanded bands", "expanded batch", "flipped", "transposed", "sliced", "negated view"],
)
def test_any_memory(view: Callable[[torch.Tensor], torch.Tensor], bands: int) -> None:
    backbone, batch = make(bands), view(images(2, bands, 40, 72))
    assert_equal_modes(backbone, batch, in_place=True)
    with torch.no_grad():
        for one, other in zip(backbone(batch), backbone(batch.contiguous().clone()), strict=True):
            torch.testing.assert_close(one, other)
    assert_equal_modes(backbone.to(memory_format=torch.channels_last), batch, in_place=True)


class Adapted(nn.Module):
    """A layer with a low-rank addition, which shows the layer's own weight and bias as adapters do."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)
        nn.init.normal_(self.up.weight, std=3)

    @property
    def weight(self) -> torch.Tensor:
        return self.layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.layer.bias

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(tokens) + self.up(self.down(tokens))


class AdaptedConvolution(nn.Module):
    def __init__(self, layer: nn.Conv1d) -> None:
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(tokens)


def _biased(layer: nn.Linear) -> nn.Linear:
    biased = nn.Linear(layer.in_features, layer.out_features)
    biased.weight = layer.weight
    nn.init.normal_(biased.bias)
    return biased


def _hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def _weight_norm(layer: nn.Module) -> nn.Module:
    layer = weight_norm(layer)
    nn.init.ones_(layer.weight_g)
    return layer


def _parametrized(layer: nn.Module) -> nn.Module:
    layer = parametrizations.weight_norm(layer)
    nn.init.ones_(layer.parametrizations.weight.original0)
    return layer


def _wrapped_forward(layer: nn.Module) -> nn.Module:
    forward = layer.forward
    layer.forward = lambda *inputs: 2 * forward(*inputs)  # type: ignore[method-assign]
    return layer


LINEAR = ("router", "mixer.in_proj", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj")
CHANGES: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[str, ...]]] = {
    "bias": (_biased, tuple(name for name in LINEAR if name != "mixer.dt_proj")),
    "no bias": (lambda layer: setattr(layer, "bias", None) or layer, ("mixer.dt_proj", "mixer.conv1d")),
    "adapter": (Adapted, LINEAR),
    "adapted convolution": (AdaptedConvolution, ("mixer.conv1d",)),
    "hook": (_hooked, (*LINEAR[1:], "mixer.conv1d", "norm")),
    "wrapped forward": (_wrapped_forward, (*LINEAR[1:], "mixer.conv1d", "norm")),
    "weight norm by a hook": (_weight_norm, (*LINEAR, "mixer.conv1d")),
    "parametrization": (_parametrized, (*LINEAR, "mixer.conv1d")),
    "norm without weights": (lambda norm: nn.RMSNorm(norm.normalized_shape, elementwise_affine=False), ("norm",)),
    "norm of another kind": (lambda norm: nn.LayerNorm(norm.normalized_shape), ("norm",)),
}


@pytest.mark.parametrize(
    ("change", "name"), [(change, name) for change, (_, names) in CHANGES.items() for name in names]
)
def test_a_module_that_is_not_as_built_is_called(change: str, name: str) -> None:
    """In both modes alike, and with an effect where the change has one."""
    backbone, batch = make(keep_ratios=(1 / 2, 1 / 2, 1 / 2, 1.0)), images(1, 3, 64, 64)
    plain = backbone(batch)
    block = backbone.stages[1].blocks[0]
    parent, _, leaf = name.rpartition(".")
    owner = block.get_submodule(parent)
    setattr(owner, leaf, CHANGES[change][0](getattr(owner, leaf)))
    assert_equal_modes(backbone, batch, in_place=False)
    # The tokens have mean 0, and a bias of all scores changes neither their order nor their weights.
    inert = change.startswith("norm") or (change, name) == ("bias", "router")
    assert inert or not torch.allclose(backbone(batch)[1], plain[1], rtol=1e-4, atol=1e-5)


def test_norms_of_maps_without_weights_and_without_bias() -> None:
    for norm in (
        nn.RMSNorm,
        lambda size: nn.LayerNorm(size, elementwise_affine=False),
        lambda size: nn.LayerNorm(size, bias=False),
    ):
        backbone = make()
        backbone.stages[0].norm, backbone.stages[2].merge.norm = norm(16), norm(48)
        assert_equal_modes(backbone, images(2, 3, 64, 64), in_place=False)


def test_gradients_reach_adapters() -> None:
    backbone = make()
    mixer = backbone.stages[1].blocks[0].mixer
    mixer.dt_proj, mixer.conv1d = Adapted(mixer.dt_proj), weight_norm(mixer.conv1d)
    sum(maps.square().mean() for maps in backbone(images(1, 3, 64, 64))).backward()
    for parameter in (mixer.dt_proj.up.weight, mixer.dt_proj.layer.bias, mixer.conv1d.weight_g):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_quantized_layers_are_called() -> None:
    backbone = make(keep_ratios=(None,) * 4)
    quantized = torch.ao.quantization.quantize_dynamic(backbone, {nn.Linear}, torch.qint8)
    batch = images(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(quantized(batch), backbone(batch), strict=True):
            assert (one - other).abs().max() <= 0.1 * other.abs().max()


def test_global_hooks_see_the_modules() -> None:
    seen: list[type] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        with torch.no_grad():
            make()(images(1, 3, 64, 64))
    finally:
        handle.remove()
    assert nn.RMSNorm in seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (96, 40)], ids=str)
def test_autocast_at_any_size_with_gradients(size: tuple[int, int], dtype: torch.dtype) -> None:
    backbone, batch = make(keep_ratios=(None,) * 4), images(2, 3, *size)
    expected = backbone(batch)
    with torch.autocast("cpu", dtype):
        maps = backbone(batch)
        with torch.no_grad():
            again = backbone(batch)
    for one, other, wanted in zip(maps, again, expected, strict=True):
        assert (one - wanted).abs().max() <= 0.1 * wanted.abs().max()
        torch.testing.assert_close(one, other)
    sum(one.float().square().mean() for one in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_default_type_is_the_type_of_every_parameter() -> None:
    usual = make()
    torch.set_default_dtype(torch.float64)
    try:
        backbone = make()
        assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float64}
        assert_equal_modes(backbone, images(1, 3, 64, 64).double(), in_place=True)
        rates = backbone.stages[0].blocks[0].mixer.A_log
        torch.testing.assert_close(rates.exp()[0], torch.arange(1.0, 17.0), rtol=1e-15, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in usual.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool], ids=str)
def test_weights_that_are_not_floating_point_are_refused(dtype: torch.dtype) -> None:
    """Torch would convert them without a word."""
    backbone, batch = make(), images(1, 3, 96, 64)
    for name in ("pos_embed", "stages.1.blocks.0.mixer.A_log", "stages.1.merge.norm.weight"):
        weights = backbone.state_dict()
        weights[name] = weights[name].to(dtype)
        with pytest.raises(ValueError, match=f"{name} must be floating point, got {dtype}"):
            backbone.load_state_dict(weights)
    for owner, name in ((backbone, "pos_embed"), (backbone.stages[1].blocks[0].mixer, "A_log")):
        usual = getattr(owner, name)
        setattr(owner, name, nn.Parameter(usual.to(dtype), requires_grad=False))
        for grad in (True, False):
            with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=f"{name} must be floating point"):
                backbone(batch)
        setattr(owner, name, usual)
    with pytest.raises(ValueError, match="images must be floating point"):
        backbone(batch.to(dtype))


class Wrapped(torch.Tensor):
    """A weight whose numbers lie in another tensor, as those of quantized and distributed weights do."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        wrapped = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        wrapped.inner = inner
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), named=None):
        unwrapped, options = pytree.tree_map_only(cls, lambda value: value.inner, (arguments, named or {}))
        result = function(*unwrapped, **options)
        return cls(result) if function is torch.ops.aten.detach.default else result


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("in_proj.weight", torch.Tensor.to_sparse_csr),
        ("x_proj.weight", torch.Tensor.to_sparse_csr),
        *((name, Wrapped) for name in ("x_proj.weight", "dt_proj.weight", "D")),
    ],
)
def test_weights_that_are_no_plain_memory_are_not_read_as_such(name: str, kind: Callable) -> None:
    """Their address holds other numbers, or nothing at all."""
    backbone, batch = make(), images(1, 3, 64, 64)
    layer, _, leaf = f"stages.0.blocks.0.mixer.{name}".rpartition(".")
    module = backbone.get_submodule(layer)
    weight = getattr(module, leaf).detach()
    expected = backbone(batch)
    setattr(module, leaf, nn.Parameter(kind(weight), requires_grad=False))
    with torch.no_grad():
        maps = backbone(batch)
    for one, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, wanted)
    setattr(module, leaf, nn.Parameter(torch._neg_view(weight), requires_grad=False))
    if weight.ndim == 1:
        with torch.no_grad(), pytest.raises(ValueError, match=r"negated view: call resolve_neg\(\)"):
            backbone(batch)


def test_what_follows_operations_sees_all_of_them() -> None:
    """A trace without gradients depends on the input, and `torch.func` takes the weights of several models."""
    backbone, batch, other = make(), images(1, 3, 64, 64), images(2, 3, 64, 64)[1:] * 2
    with torch.no_grad():
        traced = torch.jit.trace(backbone, batch, check_trace=False)
        recorded = make_fx(backbone)(batch)
        for one, again, wanted in zip(traced(other), recorded(other), backbone(other), strict=True):
            torch.testing.assert_close(one, wanted)
            torch.testing.assert_close(again, wanted)
        weights = {name: value.detach() for name, value in backbone.named_parameters()}

        def last_map(scale: torch.Tensor) -> torch.Tensor:
            return functional_call(backbone, weights | {"pos_embed": weights["pos_embed"] * scale}, (batch,))[-1]

        value, slope = jvp(last_map, (torch.ones(()),), (torch.ones(()),))
        torch.testing.assert_close(value, backbone(batch)[-1])
        assert slope.abs().max() > 0


def test_a_kind_of_layer_whose_forward_was_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, tokens: 1.5 * forward(self, tokens))
    assert_equal_modes(make(), images(1, 3, 64, 64), in_place=False)


def test_weights_without_memory_are_refused() -> None:
    """Torch's convolution and matrix product would read whatever stands elsewhere."""
    with torch.device("meta"):
        empty = create_backbone("test_nano")
    partly, batch = make(), images(1, 3, 64, 64)
    layer = partly.stages[1].blocks[0].mixer.in_proj
    layer.weight = nn.Parameter(layer.weight.to("meta"))
    with torch.no_grad():
        for backbone in (empty, partly):
            with pytest.raises(ValueError, match=r"weights on the device meta.*to_empty"):
                backbone(batch)
    with pytest.raises(ValueError, match="weights on the device meta"):
        empty(batch)
