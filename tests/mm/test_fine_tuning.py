from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from dynamicvis import create_backbone
from dynamicvis.checkpoint import CheckpointError
from dynamicvis.mm import DynamicVis

DEPTHS = (1, 1, 2, 1)
BLOCKS = sum(DEPTHS)


def classifier(**backbone: Any) -> nn.Module:
    """A classifier of mmpretrain with the test backbone, five classes."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(
            {
                "type": "mmpretrain.ImageClassifier",
                "backbone": {"type": "dynamicvis.DynamicVis", "arch": "test_nano", "out_indices": (3,), **backbone},
                "neck": {"type": "GlobalAveragePooling"},
                "head": {"type": "LinearClsHead", "num_classes": 5, "in_channels": 64},
            }
        )


def wrapper_for(model: nn.Module, **settings: Any) -> Any:
    return build_optim_wrapper(model, {"optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05}, **settings})


def layer_decay(**paramwise: Any) -> dict[str, Any]:
    return {"constructor": "dynamicvis.LayerDecayConstructor", "paramwise_cfg": paramwise}


def groups_by_name(model: nn.Module, optimizer: Any) -> dict[str, dict[str, float]]:
    by_parameter = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    return {name: by_parameter[parameter] for name, parameter in model.named_parameters() if parameter in by_parameter}


def batch() -> tuple[torch.Tensor, list[Any]]:
    from mmpretrain.structures import DataSample

    images = torch.randn(4, 3, 64, 64)
    return images, [DataSample().set_gt_label(label) for label in range(4)]


def test_learning_rates_fall_with_depth():
    model = classifier()
    groups = groups_by_name(model, wrapper_for(model, **layer_decay(layer_decay=0.5)).optimizer)
    assert len(groups) == len(list(model.parameters()))
    # Blocks in order: stage 0, 1, twice 2, 3.
    expected = {
        "head.fc.weight": 1.0,
        "backbone.stages.3.norm.weight": 0.5,
        "backbone.stages.3.blocks.0.mixer.in_proj.weight": 0.5,
        "backbone.stages.3.merge.projection.weight": 0.5,
        "backbone.stages.2.norm.bias": 0.5**2,
        "backbone.stages.2.blocks.1.mixer.A_log": 0.5**2,
        "backbone.stages.2.blocks.0.router.weight": 0.5**3,
        "backbone.stages.2.merge.norm.weight": 0.5**3,
        "backbone.stages.1.blocks.0.mixer.D": 0.5**4,
        "backbone.stages.0.blocks.0.mixer.D": 0.5**5,
        "backbone.stages.0.merge.projection.weight": 0.5**6,
        "backbone.pos_embed": 0.5**6,
    }
    assert {name: groups[name]["lr"] for name in expected} == expected


def test_optimizer_logs_the_base_rate_first():
    optimizer = wrapper_for(classifier(), **layer_decay(layer_decay=0.5)).optimizer
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_schedules_keep_the_ratios():
    from mmengine.optim import CosineAnnealingLR

    model = classifier()
    optimizer = wrapper_for(model, **layer_decay(layer_decay=0.5)).optimizer
    schedule = CosineAnnealingLR(optimizer, T_max=10, eta_min_ratio=0.0)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    groups = groups_by_name(model, optimizer)
    assert groups["head.fc.weight"]["lr"] == pytest.approx(0.5)
    assert groups["backbone.pos_embed"]["lr"] == pytest.approx(0.5**7)


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_spares_norms_biases_and_state_parameters(decay_all):
    model = classifier()
    groups = groups_by_name(model, wrapper_for(model, **layer_decay(layer_decay=0.9, decay_all=decay_all)).optimizer)
    spared = {name for name, group in groups.items() if group["weight_decay"] == 0}
    small = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    state = {name for name in groups if name.endswith(("A_log", "pos_embed"))}
    assert len(state) == BLOCKS + 1
    assert spared == (set() if decay_all else small | state)
    assert {group["weight_decay"] for group in groups.values()} == ({0.05} if decay_all else {0.0, 0.05})


def test_frozen_parameters_are_not_optimised():
    model = classifier(frozen_stages=2)
    groups = groups_by_name(model, wrapper_for(model, **layer_decay(layer_decay=0.9)).optimizer)
    assert not [name for name in groups if name.startswith(("backbone.stages.0", "backbone.stages.1"))]
    assert "backbone.pos_embed" in groups


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({}, "layer_decay"),
        ({"layer_decay": 0.0}, r"in \(0, 1\]"),
        ({"layer_decay": 1.5}, r"in \(0, 1\]"),
        ({"layer_decay": 0.9, "custom_keys": {}}, "custom_keys"),
    ],
)
def test_layer_decay_says_what_it_needs(paramwise, message):
    with pytest.raises(ValueError, match=message):
        wrapper_for(classifier(), **layer_decay(**paramwise))


def test_layer_decay_needs_our_backbone():
    with pytest.raises(ValueError, match="no DynamicVis backbone in Linear"):
        wrapper_for(nn.Linear(2, 2), **layer_decay(layer_decay=0.9))


def test_frozen_stages_stay_as_they_are_in_training():
    torch.manual_seed(0)
    model = classifier(frozen_stages=2).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    wrapper = wrapper_for(model)
    images, samples = batch()
    for _ in range(2):
        wrapper.update_params(model.loss(images, samples)["loss"])
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    frozen = {name for name in before if name.startswith(("backbone.stages.0.", "backbone.stages.1."))}
    assert frozen
    assert not frozen & changed
    assert {"backbone.pos_embed", "head.fc.weight", "backbone.stages.2.blocks.0.mixer.A_log"} <= changed


def gradients(backbone: nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients by name, and bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = backbone(images)
    sum(features.square().mean() for features in maps).backward()
    return {name: parameter.grad for name, parameter in backbone.named_parameters()}, sum(kept.values())


def test_checkpointing_gives_the_same_gradients_in_less_memory():
    plain = DynamicVis("test_nano", noise=1.0).train()
    saving = DynamicVis("test_nano", noise=1.0, gradient_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    expected, memory = gradients(plain, images)
    actual, less = gradients(saving, images)
    for name, gradient in expected.items():
        if gradient is None:
            assert actual[name] is None
        else:
            torch.testing.assert_close(actual[name], gradient, msg=name)
    assert less < memory / 2
    # The noise is loud enough that another draw selects other tokens.
    torch.manual_seed(4)
    other = plain(images)
    torch.manual_seed(3)
    assert not torch.equal(plain(images)[0], other[0])


def test_bfloat16_trains_on_a_cpu():
    torch.manual_seed(0)
    model = classifier().train()
    wrapper = build_optim_wrapper(
        model, {"type": "dynamicvis.AmpOptimWrapper", "optimizer": {"type": "AdamW", "lr": 3e-3}}
    )
    images, samples = batch()
    kinds = []
    hook = (
        model.backbone.stages[2]
        .blocks[0]
        .mixer.in_proj.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    )
    losses = []
    for _ in range(12):
        with wrapper.optim_context(model):
            loss = model.loss(images, samples)["loss"]
        wrapper.update_params(loss)
        losses.append(loss.item())
    hook.remove()
    assert set(kinds) == {torch.bfloat16}
    assert losses[-1] < losses[0] / 2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_bfloat16_computes_nearly_the_same():
    torch.manual_seed(0)
    # Without selection: in bfloat16 scores tie, and another token may be taken.
    backbone = create_backbone("test_nano", keep_ratios=(None,) * 4).train()
    images = torch.randn(2, 3, 64, 64)
    expected = backbone(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = backbone(images)
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_other_types_of_mixed_precision_are_refused():
    with pytest.raises(ValueError, match="float16"):
        build_optim_wrapper(
            classifier(),
            {"type": "dynamicvis.AmpOptimWrapper", "dtype": "float16", "optimizer": {"type": "SGD", "lr": 1.0}},
        )


def test_weights_for_rgb_serve_other_bands(tmp_path):
    source = create_backbone("test_nano")
    path = tmp_path / "rgb.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in source.state_dict().items()}}, path)
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone."}
    backbone = DynamicVis("test_nano", in_channels=6, init_cfg=init_cfg)
    backbone.init_weights()
    # A grey image means the same in three bands and in six.
    grey = torch.randn(1, 1, 64, 64)
    for ours, theirs in zip(
        backbone.eval()(grey.expand(-1, 6, -1, -1)), source.eval()(grey.expand(-1, 3, -1, -1)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_that_matches_little_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1), "head.weight": torch.zeros(1)}}, path)
    backbone = DynamicVis("test_nano", init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    with pytest.raises(CheckpointError, match=r"other\.pth gives only 0 of the backbone's \d+ parameters"):
        backbone.init_weights()


def test_flips_at_test_time_are_averaged():
    model = classifier().eval()
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        tta = MODELS.build({"type": "mmpretrain.AverageClsScoreTTA", "module": model})
        images = [torch.randint(0, 255, (3, 64, 64)) for _ in range(2)]
        from mmpretrain.structures import DataSample

        views = [images, [image.flip(2) for image in images]]
        batch = {"inputs": views, "data_samples": [[DataSample() for _ in images] for _ in views]}
        merged = tta.test_step(batch)
        single = [model.test_step({"inputs": view, "data_samples": [DataSample() for _ in view]}) for view in views]
    for index, result in enumerate(merged):
        mean = torch.stack([predictions[index].pred_score for predictions in single]).mean(dim=0)
        torch.testing.assert_close(result.pred_score, mean)
