"""The backbone through timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import dynamicvis.timm


def test_features_are_the_backbones_maps() -> None:
    model = timm.create_model("dynamicvis_nano", features_only=True, in_chans=4, img_size=64).eval()
    assert model.feature_info.channels() == [32, 64, 128, 256]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    batch = torch.randn(1, 4, 70, 64)
    expected = model.model.backbone(batch)
    for actual, other in zip(model(batch), expected, strict=True):
        assert torch.equal(actual, other)
    chosen = timm.create_model("dynamicvis_nano", features_only=True, out_indices=(1, 3), img_size=64)
    assert [tuple(maps.shape[1:]) for maps in chosen(torch.randn(1, 3, 64, 64))] == [(64, 8, 8), (256, 2, 2)]


def test_classifier_learns() -> None:
    torch.manual_seed(0)
    model = timm.create_model("dynamicvis_nano", num_classes=2, img_size=32)
    batch = torch.randn(8, 3, 32, 32) + torch.tensor([-1.0, 1.0]).repeat(4)[:, None, None, None]
    labels = torch.tensor([0, 1]).repeat(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_registered_names_and_weight_decay() -> None:
    assert {f"dynamicvis_{arch}" for arch in ("nano", "small", "base", "large")} <= set(timm.list_models())
    names = dynamicvis.timm.DynamicVisClassifier("test_nano", num_classes=2).no_weight_decay()
    mixer = "backbone.stages.0.blocks.0.mixer"
    assert {"backbone.pos_embed", f"{mixer}.A_log", f"{mixer}.D"} <= names
    assert not [name for name in names if "proj" in name]


def test_what_the_training_script_passes() -> None:
    unset = dict.fromkeys(("drop_path_rate", "drop_block_rate", "global_pool", "bn_momentum", "bn_eps"))
    model = timm.create_model(
        *("dynamicvis_nano", False), in_chans=5, num_classes=4, drop_rate=0.5, scriptable=False, exportable=True,
        no_jit=True, checkpoint_path="", img_size=64, cache_dir=None, pretrained_cfg_overlay={"crop_pct": 0.9}, **unset,
    )  # fmt: skip
    assert (model.num_features, model.head_hidden_size, model.num_classes) == (256, 256, 4)
    assert model.default_cfg["crop_pct"] == 0.9
    batch = torch.randn(3, 5, 64, 64)
    assert model(batch).shape == (3, 4)
    model.eval()
    assert torch.equal(model(batch), model(batch))
    model.get_classifier().weight.data.mul_(0.001)  # --head-init-scale
    model.reset_classifier(7)
    assert model(batch).shape == (3, 7)
    groups = timm.models.group_parameters(model, model.group_matcher())
    last = len(groups) - 1
    place = {name: group for group, names in groups.items() for name in names}
    assert place["backbone.pos_embed"] == place["backbone.stages.0.merge.projection.weight"] == 0
    assert place["head.weight"] == place["norm.weight"] + 1 == last
    blocks = [place[f"backbone.stages.{stage}.blocks.{block}.norm.weight"] for stage in range(4) for block in range(2)]
    assert blocks == sorted(set(blocks))
    assert len(timm.models.group_parameters(model, model.group_matcher(coarse=True))) == 6  # stem, 4 stages, head
    half = timm.create_model("dynamicvis_nano", num_classes=2, img_size=32, dtype=torch.bfloat16)
    half.reset_classifier(3)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_dropout_is_that_of_the_head_in_training() -> None:
    model = timm.create_model("dynamicvis_nano", num_classes=0, drop_rate=0.5, img_size=32)
    maps = torch.randn(64, 256, 1, 1)
    whole = model.eval().forward_head(maps)
    dropped = model.train().forward_head(maps)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert abs(kept.float().mean() - 0.5) < 0.03


def test_checkpointing_and_drop_path_reach_the_backbone() -> None:
    model = timm.create_model("dynamicvis_nano", num_classes=2, img_size=32, drop_path_rate=0.3).train()
    assert model.backbone.stages[3].blocks[1].drop_path == 0.3
    batch = torch.randn(2, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert model.backbone.gradient_checkpointing is enable
        model.zero_grad()
        torch.manual_seed(0)
        model(batch).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()
                          if parameter.grad is not None})  # fmt: skip
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_checkpoint_is_loaded_in_both_of_timms_ways(tmp_path: Path) -> None:
    source = timm.create_model("dynamicvis_nano", num_classes=2, img_size=32)
    path = tmp_path / "a.pth"
    torch.save({"state_dict": source.state_dict()}, path)
    overlay = {"file": str(path), "num_classes": 2}
    again = timm.create_model("dynamicvis_nano", num_classes=2, img_size=32, checkpoint_path=str(path))
    tuned = timm.create_model(
        "dynamicvis_nano", pretrained=True, num_classes=5, img_size=32, pretrained_cfg_overlay=overlay
    )
    for name, parameter in source.state_dict().items():
        assert torch.equal(again.state_dict()[name], parameter)
        if not name.startswith("head"):
            assert torch.equal(tuned.state_dict()[name], parameter)


def test_another_input_size_resamples_the_embedding() -> None:
    model = timm.create_model("dynamicvis_nano", num_classes=2, img_size=64).eval()
    torch.nn.init.normal_(model.backbone.pos_embed)
    batch = torch.randn(1, 3, 96, 64)
    with torch.enable_grad():
        before = model(batch)
        model.set_input_size((96, 64))
        torch.testing.assert_close(model(batch), before)
    assert model.backbone.pos_embed.shape == (1, 24 * 16, 32)
    with pytest.raises(ValueError, match="multiple of 32, got 100"):
        model.set_input_size(100)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bn_eps": 1e-3}, TypeError, r"dynamicvis_nano has no argument bn_eps=0.001; it has .*drop_path_rate"),
        ({"bn_momentum": 0.1}, TypeError, "no argument bn_momentum=0.1"),
        ({"drop_block_rate": 0.1}, TypeError, "no argument drop_block_rate=0.1"),
        ({"drop_path_rate": 1.0}, ValueError, r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        ({"drop_rate": 1.5}, ValueError, r"drop_rate must lie in \[0, 1\], got 1.5"),
        ({"global_pool": "max"}, ValueError, "global_pool must be 'avg' or '', got 'max'"),
        ({"global_pool": ""}, ValueError, "num_classes=1000 needs global_pool='avg'"),
        ({"output_stride": 8}, ValueError, "output_stride must be 32, got 8"),
        ({"img_size": 100}, ValueError, "img_size must be a positive multiple of 32, got 100"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0 and whole, got -1"),
        ({"num_classes": "10"}, ValueError, "num_classes must be at least 0 and whole, got '10'"),
        ({"scriptable": True}, ValueError, "cannot be made for TorchScript"),
        ({"in_channels": 4}, TypeError, "no argument in_channels=4; it has .*in_chans"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        timm.create_model("dynamicvis_nano", **settings)


def test_a_unet_of_segmentation_models_pytorch() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("tu-dynamicvis_nano", encoder_weights=None, in_channels=4, classes=2).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 4, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int8), "has type int8, needed is float32"),
        (lambda value: value.to(torch.complex64), "has type complex64, needed is float32"),
        (lambda value: value * float("nan"), "holds NaN or infinity"),
        (lambda value: value.double() + 1e300, "holds numbers beyond float32"),
    ],
)
def test_weights_that_are_none_are_refused(change: Callable, message: str, tmp_path: Path) -> None:
    state = timm.create_model("dynamicvis_nano", num_classes=2, img_size=64).state_dict()
    for name in ("head.weight", "norm.bias", "backbone.stages.0.norm.weight"):
        torch.save({**state, name: change(state[name])}, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=f"{name} {message}"):
            timm.create_model("dynamicvis_nano", num_classes=2, img_size=64, checkpoint_path=str(tmp_path / "w.pth"))
