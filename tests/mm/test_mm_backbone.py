from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from mmengine.model import BaseModule

from dynamicvis import create_backbone
from dynamicvis.mm import DynamicVis, patches
from dynamicvis.registry import MODELS


def test_is_the_same_network_under_the_same_names():
    torch.manual_seed(0)
    wrapped = MODELS.build({"type": "dynamicvis.DynamicVis", "arch": "test_nano", "in_channels": 4})
    plain = create_backbone("test_nano", in_channels=4)
    plain.load_state_dict(wrapped.state_dict())
    images = torch.randn(2, 4, 64, 96)
    for ours, theirs in zip(wrapped.eval()(images), plain.eval()(images), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert isinstance(wrapped, BaseModule)


def test_returns_the_chosen_stages():
    backbone = DynamicVis("test_nano", out_indices=(1, 3))
    assert [tuple(feature.shape[1:]) for feature in backbone(torch.randn(1, 3, 64, 64))] == [(32, 8, 8), (64, 2, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "giant"}, "no backbone named 'giant'"),
        ({"arch": "test_nano", "out_indices": (2, 1)}, "out_indices"),
        ({"arch": "test_nano", "out_indices": (0, 4)}, "out_indices"),
        ({"arch": "test_nano", "frozen_stages": 5}, "frozen_stages"),
        ({"arch": "test_nano", "init_cfg": {"type": "Kaiming"}}, "init_cfg"),
        ({"arch": "test_nano", "init_cfg": {"type": "Pretrained", "checkpoint": "x", "prefix": "neck."}}, "init_cfg"),
    ],
)
def test_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicVis(**arguments)


def test_frozen_stages_have_neither_gradients_nor_noise():
    images = torch.randn(2, 3, 64, 64)
    backbone = DynamicVis("test_nano", frozen_stages=2, noise=100.0).train()
    backbone.record_selection = True
    selections = []
    for _ in range(2):
        features = backbone(images)
        selections.append([selection.indices for selection in backbone.last_selection])
    sum(feature.square().mean() for feature in features).backward()
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, _ in backbone.named_parameters() if name.startswith(("stages.0.", "stages.1."))]
    assert all(parameter.grad is None for name, parameter in backbone.named_parameters() if name in frozen)
    assert backbone.pos_embed.grad is not None
    # Blocks 0 and 1 belong to the frozen stages; noise this loud reorders every other selection.
    assert [torch.equal(first, second) for first, second in zip(*selections, strict=True)][:3] == [True, True, False]


def test_thawed_backbone_trains_everywhere():
    backbone = DynamicVis("test_nano").train()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())


def test_loads_the_checkpoint_of_its_init_cfg(tmp_path):
    source = create_backbone("test_nano")
    path = tmp_path / "run.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in source.state_dict().items()}}, path)
    init_cfg = {"type": "Pretrained", "checkpoint": str(path), "prefix": "backbone."}
    backbone = DynamicVis("test_nano", init_cfg=init_cfg)
    assert not torch.equal(backbone.stages[0].merge.projection.weight, source.stages[0].merge.projection.weight)
    backbone.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


def test_initialising_again_keeps_what_was_learnt(tmp_path):
    path = tmp_path / "run.pth"
    torch.save(create_backbone("test_nano").state_dict(), path)
    backbone = DynamicVis("test_nano", init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    backbone.init_weights()
    torch.nn.init.constant_(backbone.pos_embed, 3.0)
    backbone.init_weights()
    assert (backbone.pos_embed == 3.0).all()


def test_works_without_the_other_packages():
    code = (
        "import sys\n"
        "for name in ('mmdet', 'mmseg', 'mmpretrain'): sys.modules[name] = None\n"
        "import dynamicvis.mm\n"
        "from mmengine.registry import METRICS, MODELS\n"
        "MODELS.build(dict(type='dynamicvis.DynamicVis', arch='test_nano'))\n"
        "METRICS.build(dict(type='dynamicvis.PrecisionRecallMetric'))\n"
        "print('dynamicvis.cli' in sys.modules, 'torchvision' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1:] == ["False False"], result.stderr


def test_the_scope_alone_is_enough_to_find_the_backbone():
    # As in a config without custom_imports: mmdet's registry is asked for a type of our scope.
    code = (
        "from mmengine.registry import MODELS\n"
        "print(type(MODELS.build(dict(type='dynamicvis.DynamicVis', arch='test_nano'))).__module__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1:] == ["dynamicvis.mm.backbone"], result.stderr


@pytest.mark.parametrize(("version", "kept"), [("5.1.0", False), ("4.57.6", True)])
def test_multimodal_models_are_switched_off_beside_transformers_5_only(monkeypatch, version, kept):
    from mmpretrain.utils import dependency

    monkeypatch.setattr(dependency, "WITH_MULTIMODAL", True)
    monkeypatch.setattr(patches, "version", lambda name: version)
    assert patches.disable_broken_multimodal() is not kept
    assert dependency.WITH_MULTIMODAL is kept
