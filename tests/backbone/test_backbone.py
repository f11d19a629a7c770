"""What the backbone does beyond the reference: sizes, bands, keep ratios, orders, noise, selection."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from dynamicvis_kernels import _parallel, streaming
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dynamicvis import NoiseDecay, create_backbone
from dynamicvis.backbone import DynamicVis
from dynamicvis.backbone.model import resize_position_embedding


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def make(**overrides: object) -> DynamicVis:
    torch.manual_seed(0)
    backbone = create_backbone("test_nano", **overrides)
    torch.nn.init.normal_(backbone.pos_embed)
    return backbone.eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (33, 100), (96, 32), (130, 70)])
@pytest.mark.parametrize("bands", [1, 3, 13])
def test_any_size_and_any_bands(height: int, width: int, bands: int) -> None:
    maps = make(in_channels=bands)(images(2, bands, height, width))
    for s, stride in enumerate((4, 8, 16, 32)):
        assert maps[s].shape == (2, (16, 32, 48, 64)[s], -(-height // stride), -(-width // stride))
        assert maps[s].isfinite().all()


def test_padding_is_zeros_at_the_far_edges() -> None:
    backbone = make()
    small = images(1, 3, 50, 40)
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :50, :40] = small
    for cropped, whole in zip(backbone(small), backbone(padded), strict=True):
        assert torch.equal(cropped, whole[:, :, : cropped.shape[2], : cropped.shape[3]])


def test_position_embedding_is_exact_on_its_grid_and_smooth_elsewhere() -> None:
    backbone = make(img_size=(64, 96))
    same = resize_position_embedding(backbone.pos_embed, (16, 24), (16, 24))
    assert torch.equal(same, backbone.pos_embed)
    ramp = torch.arange(16.0)[:, None].expand(16, 24)
    with torch.no_grad():
        backbone.pos_embed.copy_(ramp.reshape(1, -1, 1).expand_as(backbone.pos_embed))
    doubled = resize_position_embedding(backbone.pos_embed, (16, 24), (32, 48)).unflatten(1, (32, 48))[0, :, :, 0]
    linear = (torch.arange(32.0) + 0.5) / 2 - 0.5
    # Bicubic convolution with torch's coefficient of -0.75 strays from a ramp by up to 0.05 of a step.
    torch.testing.assert_close(doubled[6:-6], linear[6:-6, None].expand(20, 48), rtol=0, atol=0.05)


@pytest.mark.parametrize("new", [(20, 31), (8, 8), (3, 40)])
def test_position_embedding_is_resampled_as_torch_does(new: tuple[int, int]) -> None:
    old = (8, 12)
    embedding = images(1, 96, 5)
    expected = F.interpolate(embedding.transpose(1, 2).unflatten(2, old), size=new, mode="bicubic")[0].permute(1, 2, 0)
    actual = resize_position_embedding(embedding, old, new)
    torch.testing.assert_close(actual, expected.reshape(1, -1, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("residual", ["softmax", "identity"])
@pytest.mark.parametrize("global_tokens", [True, False])
@pytest.mark.parametrize("keep_ratios", [(1 / 8, 1 / 4, 1 / 2, 1.0), (1 / 8, None, 0.3, None)], ids=["gates", "some"])
def test_inference_in_place_equals_training_path(
    dtype: torch.dtype, residual: str, global_tokens: bool, keep_ratios: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks shorter than every sequence, several images, sizes off the position embedding's grid."""
    monkeypatch.setattr(streaming, "_CHUNK_ELEMENTS", 1)
    backbone = make(residual=residual, global_tokens=global_tokens, keep_ratios=keep_ratios).to(dtype)
    batch = images(2, 3, 200, 330).to(dtype)
    expected = backbone(batch)
    with torch.no_grad():
        actual = backbone(batch)
        again = backbone(batch)
    # Rounding errors grow with the root of the longest sum, over the 1100 tokens of a sequence.
    bound = 16 * torch.finfo(dtype).eps * 1100**0.5
    for one, other, repeated in zip(actual, expected, again, strict=True):
        assert (one - other).abs().max() <= bound * other.abs().max()
        assert torch.equal(one, repeated)


def test_keep_ratio_sets_the_number_of_tokens() -> None:
    backbone = make(keep_ratios=(1 / 8, 1 / 3, 0.5, None))
    backbone.record_selection = True
    backbone(images(2, 3, 96, 96))
    assert backbone.last_selection is not None
    counts = [(selection.stage, selection.indices.shape) for selection in backbone.last_selection]
    assert counts == [(0, (2, 72)), (1, (2, 48)), (2, (2, 18)), (2, (2, 18))]
    backbone.set_keep_ratios((1.0, 1 / 4, 0.5, None))
    backbone(images(2, 3, 96, 96))
    assert [selection.indices.shape[1] for selection in backbone.last_selection] == [576, 36, 18, 18]


def test_nothing_is_recorded_unless_asked() -> None:
    backbone = make()
    backbone(images(1, 3, 64, 64))
    assert backbone.last_selection is None


@pytest.mark.parametrize(("order", "ascending"), [("score", False), ("raster", True)])
def test_token_order(order: str, ascending: bool) -> None:
    backbone = make(token_order=order)
    backbone.record_selection = True
    backbone(images(1, 3, 64, 64))
    assert backbone.last_selection is not None
    for selection in backbone.last_selection:
        if selection.indices.shape[1] > 8:
            assert bool((selection.indices.diff() > 0).all()) == ascending


def test_order_changes_the_result_but_not_the_choice() -> None:
    by_score, by_raster = make(token_order="score"), make(token_order="raster")
    by_raster.load_state_dict(by_score.state_dict())
    chosen, maps = [], []
    for backbone in (by_score, by_raster):
        backbone.record_selection = True
        maps.append(backbone(images(1, 3, 64, 64))[0])
        assert backbone.last_selection is not None
        chosen.append(backbone.last_selection[0].indices.sort().values)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(maps[0], maps[1])


def test_unselected_tokens() -> None:
    """The identity residual leaves them alone; the softmax residual adds each token times its weight."""
    for residual in ("identity", "softmax"):
        block = make(residual=residual).stages[0].blocks[0]
        tokens = images(1, 64, 16)
        mixed, indices = block(tokens, (8, 8))
        assert indices is not None
        outside = torch.ones(64, dtype=torch.bool).index_fill(0, indices[0], False)
        weights = block.router(tokens).softmax(1)
        expected = tokens + weights * tokens if residual == "softmax" else tokens
        torch.testing.assert_close(mixed[0, outside], expected[0, outside])
        assert (mixed[0, ~outside] - tokens[0, ~outside]).abs().amin() > 0


def test_global_tokens_are_pooled_rows_at_the_head() -> None:
    block = make().stages[0].blocks[0]
    tokens = images(1, 96, 16)
    output, indices = block(tokens, (8, 12))
    assert indices is not None
    selected = tokens[0, indices[0]]
    pooled = torch.nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), 8).transpose(1, 2)
    sequence = block.norm(torch.cat([pooled[0], selected])[None])
    mixed = selected + block.mixer(sequence)[0, 8:]
    weights = block.router(tokens).softmax(1)[0, indices[0]]
    torch.testing.assert_close(output[0, indices[0]], selected + weights * mixed)


def test_dense_stage_has_no_router() -> None:
    backbone = make(keep_ratios=(None, None, None, None))
    assert not [name for name, _ in backbone.named_parameters() if "router" in name]
    backbone(images(1, 3, 64, 64))[3].sum().backward()
    assert all(parameter.grad is not None for name, parameter in backbone.named_parameters() if "stages.0" in name)


def test_gradients_stay_finite_where_the_image_is_empty() -> None:
    """On NoData or padding, zero biases would leave zero tokens, and each layer norm would amplify by 1000."""
    torch.manual_seed(0)
    backbone = create_backbone("test_nano").train()
    batch = images(2, 3, 64, 64)
    batch[:, :, 20:] = 0
    torch.stack([maps.square().mean() for maps in backbone(batch)]).sum().backward()
    assert max(parameter.grad.abs().max() for parameter in backbone.parameters() if parameter.grad is not None) < 100


def test_noise_only_in_training_and_by_scale() -> None:
    backbone = make(noise=5.0)
    batch = images(1, 3, 64, 64)
    assert torch.equal(backbone(batch)[0], backbone(batch)[0])
    backbone.train()
    assert not torch.equal(backbone(batch)[0], backbone(batch)[0])
    backbone.noise = 0.0
    assert torch.equal(backbone(batch)[0], backbone(batch)[0])


def test_noise_follows_the_gumbel_distribution() -> None:
    """Adding Gumbel noise of scale s to logits selects token i first with probability softmax(logits / s)_i."""
    block = make(keep_ratios=(1 / 4, 1, 1, 1)).stages[0].blocks[0].train()
    logits = torch.tensor([0.0, 1.0, 2.0, 0.5])
    torch.manual_seed(0)
    first = block._select(logits.expand(200_000, 4), noise=0.7).squeeze(1)
    frequency = torch.bincount(first, minlength=4) / 200_000
    # Five standard deviations of a frequency.
    torch.testing.assert_close(frequency, (logits / 0.7).softmax(0), rtol=0, atol=5 * (0.25 / 200_000) ** 0.5)


def test_noise_decay() -> None:
    decay = NoiseDecay(0.1, 1e-4)
    scales = []
    for progress in (0.0, 0.5, 1.0, 2.0):
        decay.progress = progress
        scales.append(decay.scale)
    assert scales == pytest.approx([0.1, 0.05005, 1e-4, 1e-4])
    backbone = make(noise=decay).train()
    decay.progress = 0.0
    torch.manual_seed(0)
    noisy = backbone(images(1, 3, 64, 64))[0]
    backbone.noise = 0.1
    torch.manual_seed(0)
    assert torch.equal(backbone(images(1, 3, 64, 64))[0], noisy)


def test_compiled_without_graph_breaks() -> None:
    backbone = make()
    batch = images(1, 3, 64, 64)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(batch), backbone(batch), strict=True):
        torch.testing.assert_close(one, other)


def test_exported_program_needs_only_torch_and_the_kernels(tmp_path: Path) -> None:
    backbone, batch = make(), images(1, 3, 64, 96)
    torch.export.save(torch.export.export(backbone, (batch,)), tmp_path / "backbone.pt2")
    with torch.no_grad():
        torch.save((batch, backbone(batch)), tmp_path / "expected.pt")
    script = """
import sys, torch, dynamicvis_kernels
batch, expected = torch.load("expected.pt")
with torch.no_grad():
    maps = torch.export.load("backbone.pt2").module()(batch)
for one, other in zip(maps, expected, strict=True):
    torch.testing.assert_close(one, other)
assert not [name for name in sys.modules if name.split(".")[0] in ("dynamicvis", "mmengine", "mmcv")]
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_forced_backend_reaches_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the naive backend forced, not even inference runs the CPU's kernels."""
    backbone, batch = make(), images(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(batch)
    monkeypatch.setenv("DYNAMICVIS_BACKEND", "naive")
    monkeypatch.setattr(_parallel, "run", lambda *arguments: pytest.fail("a CPU kernel ran"))
    for module in ("selective_scan.cpu", "causal_conv.cpu", "token_routing.cpu", "normalization"):
        monkeypatch.setattr(importlib.import_module(f"dynamicvis_kernels.{module}"), "run", _parallel.run)
    with torch.no_grad():
        for one, other in zip(backbone(batch), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_inference_calls_modules_that_were_changed() -> None:
    """An adapter in the place of a layer, and a hook, take part in inference as in training."""

    class Doubled(torch.nn.Linear):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(tokens)

    adapted, hooked, batch = make(), make(), images(1, 3, 64, 64)
    mixer = adapted.stages[1].blocks[0].mixer
    layer = mixer.out_proj
    mixer.out_proj = Doubled(layer.in_features, layer.out_features, bias=False)
    mixer.out_proj.weight = layer.weight
    hooked.stages[1].blocks[0].mixer.out_proj.register_forward_hook(lambda module, inputs, output: 2 * output)
    expected = adapted(batch)
    with torch.no_grad():
        plain = make()(batch)
        for backbone in (adapted, hooked):
            for one, other in zip(backbone(batch), expected, strict=True):
                torch.testing.assert_close(one, other)
    assert not torch.allclose(plain[1], expected[1], rtol=1e-3)


@pytest.mark.parametrize("name", ["conv1d.weight", "x_proj.weight", "dt_proj.bias", "A_log", "D"])
def test_inference_with_one_weight_of_another_type_is_an_error(name: str) -> None:
    """As in training; kernels that take addresses would read it as something else."""
    backbone = make()
    weight = backbone.stages[2].blocks[0].mixer.get_parameter(name)
    weight.data = weight.data.double()
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError), match=r"dtype|float64|Double"):
        backbone(images(1, 3, 64, 64))


def test_inference_under_autocast() -> None:
    backbone, batch = make(), images(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = backbone(batch)
    for one, other in zip(low, backbone(batch), strict=True):
        # A rounded score may select another token, so only most of the map is compared.
        close = (one - other).abs() <= 0.1 * other.abs().max()
        assert close.float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    """Weights and activations of a low type, in training and inference, stay within that type's rounding of float32."""
    backbone, batch = make(keep_ratios=(None,) * 4), images(1, 3, 64, 64)
    expected = backbone(batch)
    low = backbone.to(dtype)
    for maps in (low(batch.to(dtype)), torch.no_grad()(low)(batch.to(dtype))):
        for one, other in zip(maps, expected, strict=True):
            assert one.dtype == dtype
            # Five layers deep, each rounded to the type.
            assert (one - other).abs().max() <= 16 * torch.finfo(dtype).eps * other.abs().max()


def test_threads_at_once() -> None:
    backbone = make()
    batches = [images(1, 3, 64, 64 + 32 * i) for i in range(4)]

    @torch.no_grad()
    def features(i: int) -> torch.Tensor:
        return backbone(batches[i % 4])[3]

    expected = [features(i) for i in range(4)]
    with ThreadPoolExecutor(4) as callers:
        outputs = list(callers.map(features, range(16)))
    assert all(torch.equal(output, expected[i % 4]) for i, output in enumerate(outputs))


class _Features(Dataset):
    """A data set whose items are computed by the backbone."""

    def __init__(self, backbone: DynamicVis) -> None:
        self.backbone = backbone

    def __len__(self) -> int:
        return 4

    @torch.no_grad()
    def __getitem__(self, index: int) -> torch.Tensor:
        return self.backbone(images(1, 3, 64, 64) + index)[3]


def test_forked_data_loader_after_a_forward() -> None:
    data = _Features(make())
    expected = torch.cat([data[i] for i in range(4)])
    loader = DataLoader(data, num_workers=2, multiprocessing_context="fork", timeout=120)
    # A worker has one thread, and torch's matrix products round differently with another number of threads.
    torch.testing.assert_close(torch.cat([item[0] for item in loader]), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(keep_ratios=(1, 1, 1)), "keep_ratios needs one value for each of the 4 stages"),
        (dict(keep_ratios=(0, 1, 1, 1)), r"a keep ratio must lie in \(0, 1\] or be None, got 0"),
        (dict(residual="sum"), "residual must be one of softmax, identity, got 'sum'"),
        (dict(token_order="random"), "token_order must be one of score, raster"),
        (dict(img_size=100), "img_size must be a positive multiple of 32, got 100"),
        (dict(in_channels=0), "in_channels must be at least 1"),
        (dict(in_channels="3"), "in_channels must be at least 1 and whole, got '3'"),
        (dict(dims=(0, 8, 8, 8)), "dims must be at least 1 and whole, got 0"),
        (dict(dims=(8.0, 8, 8, 8)), "dims must be at least 1 and whole, got 8.0"),
        (dict(depths=(-1, 1, 1, 1)), "depths must be at least 0 and whole, got -1"),
        (dict(img_size="512"), "img_size must be a positive multiple of 32, got '512'"),
        (dict(img_size=(64,)), r"img_size must be a positive multiple of 32, got \(64,\)"),
        (dict(img_size=64.0), "img_size must be a positive multiple of 32, got 64.0"),
        (dict(global_tokens="no"), "global_tokens must be one of True, False, got 'no'"),
        (dict(noise=float("nan")), "noise must be finite and not negative, got nan"),
    ],
)
def test_settings_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone("test_nano", **arguments)


def test_wrong_calls() -> None:
    backbone = make(keep_ratios=(1, 1, 1, None))
    with pytest.raises(ValueError, match=r"images must be \(batch, 3, height, width\).*got \(1, 4, 64, 64\)"):
        backbone(images(1, 4, 64, 64))
    with pytest.raises(ValueError, match="not empty"):
        backbone(images(1, 3, 0, 64))
    with pytest.raises(ValueError, match="stage 3 was built without a router"):
        backbone.set_keep_ratios((1, 1, 1, 1))
    assert backbone.keep_ratios == (1, 1, 1, None)
    with pytest.raises(TypeError, match="images must be a tensor, got ndarray"):
        backbone(images(1, 3, 64, 64).numpy())
    with pytest.raises(ValueError, match="no backbone named 'tiny'; there are test_nano, nano, small, base, large"):
        create_backbone("tiny")


def test_a_stage_without_blocks_has_no_keep_ratio() -> None:
    backbone = make(depths=(0, 1, 1, 1))
    assert backbone.keep_ratios == (None, 1 / 4, 1 / 2, 1.0)
    backbone.set_keep_ratios(backbone.keep_ratios)
    backbone.set_keep_ratios((0.5,) * 4)
    assert backbone.keep_ratios == (None, 0.5, 0.5, 0.5)
    assert [tuple(maps.shape[2:]) for maps in backbone(images(1, 3, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]
