"""The backbone through timm."""

from __future__ import annotations

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
