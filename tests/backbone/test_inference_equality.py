"""Inference in place gives what training computes, whatever the input, its memory and the modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

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
