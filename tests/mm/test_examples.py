"""Stock configs of OpenMMLab with our backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

import dynamicvis.mm  # noqa: F401 - before a config is read, as tools/train.py does

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
BASES = {
    "faster-rcnn_mmdet.py": ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", {"backbone", "neck.in_channels"}),
    "upernet_mmseg.py": (
        "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py",
        {"backbone", "pretrained", "decode_head.in_channels", "auxiliary_head.in_channels"},
    ),
    "resnet-classifier_mmpretrain.py": (
        "mmpretrain::resnet/resnet50_8xb32_in1k.py",
        {"backbone", "head.in_channels"},
    ),
}


def detection_batch() -> dict[str, Any]:
    from mmdet.structures import DetDataSample

    samples = []
    for _ in range(2):
        shape = (128, 128)
        sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
        boxes = torch.tensor([[8.0, 8.0, 56.0, 60.0], [70.0, 64.0, 120.0, 124.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 79]))
        samples.append(sample)
    return {"inputs": [torch.randint(0, 255, (3, 128, 128)) for _ in samples], "data_samples": samples}


def segmentation_batch() -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 64)))
        samples.append(sample)
    return {"inputs": [torch.randint(0, 255, (3, 64, 64)) for _ in samples], "data_samples": samples}


def classification_batch() -> dict[str, Any]:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (7, 999)]
    return {"inputs": [torch.randint(0, 255, (3, 64, 64)) for _ in samples], "data_samples": samples}


BATCHES = {
    "faster-rcnn_mmdet.py": detection_batch,
    "upernet_mmseg.py": segmentation_batch,
    "resnet-classifier_mmpretrain.py": classification_batch,
}


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings below one another by dotted names, a backbone as one."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict) and key != "backbone"
        result |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return result


@pytest.mark.parametrize("name", BASES)
def test_nothing_changes_but_backbone_and_channels(name, tmp_path):
    base, changed = BASES[name]
    (tmp_path / "stock.py").write_text(f'_base_ = "{base}"\n')
    stock, ours = Config.fromfile(tmp_path / "stock.py").to_dict(), Config.fromfile(EXAMPLES / name).to_dict()
    assert ours.pop("custom_imports") == {"imports": ["dynamicvis.mm"], "allow_failed_imports": False}
    models = flat(stock.pop("model")), flat(ours.pop("model"))
    assert ours == stock
    assert models[0].keys() == models[1].keys()
    assert {key for key in models[0] if models[0][key] != models[1][key]} == changed


@pytest.mark.parametrize("name", BASES)
def test_example_trains_and_infers(name):
    torch.manual_seed(0)
    config = Config.fromfile(EXAMPLES / name)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        settings = config.model
        settings.setdefault("data_preprocessor", config.get("data_preprocessor"))
        model = revert_sync_batchnorm(MODELS.build(settings))
        model.init_weights()
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        batch = BATCHES[name]()
        before = model.backbone.stages[2].blocks[0].mixer.in_proj.weight.clone()
        losses = [float(model.train_step(batch, wrapper)["loss"]) for _ in range(2)]
        results = model.eval().test_step(batch)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert not torch.equal(model.backbone.stages[2].blocks[0].mixer.in_proj.weight, before)
    assert len(results) == 2
    if name.startswith("upernet"):
        assert results[0].pred_sem_seg.data.shape == (1, 64, 64)
    elif name.startswith("resnet"):
        assert results[0].pred_score.sum().item() == pytest.approx(1, abs=1e-5)
    else:
        assert results[0].pred_instances.bboxes.shape[1] == 4


def test_a_distribution_that_mmengine_knows_is_left_alone(monkeypatch):
    from mmengine.config.utils import MODULE2PACKAGE

    from dynamicvis.mm import patches

    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmsegmentation")
    monkeypatch.setattr(patches, "version", lambda name: "1.2.2")
    assert not patches.find_shipped_configs()
    assert MODULE2PACKAGE["mmseg"] == "mmsegmentation"


def test_settings_of_the_readme_work(tmp_path):
    settings = (EXAMPLES / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "fine_tuning.py").write_text(f'_base_ = "{EXAMPLES}/upernet_mmseg.py"\n{settings}')
    config = Config.fromfile(tmp_path / "fine_tuning.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        config.model.data_preprocessor.pop("size", None)
        model = MODELS.build(config.model)
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        (hook,) = [HOOKS.build(hook) for hook in config.custom_hooks]
    assert (model.backbone.in_channels, model.backbone.frozen_stages) == (6, 1)
    assert model.backbone.gradient_checkpointing
    rates = {group["lr"] for group in wrapper.optimizer.param_groups}
    assert max(rates) == config.optim_wrapper.optimizer.lr > min(rates)
    assert type(wrapper).__name__ == "AmpOptimWrapper"
    assert type(hook).__name__ == "RouterNoiseHook"
