"""The configs for scene classification, and for the evaluation of frozen features, on data made by code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from exercise import exercise
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from scene_layouts import write_scenes
from tools_helpers import ROOT, tool

from dynamicvis.data.preparation.scenes import AID_CLASSES, UCMERCED_CLASSES
from dynamicvis.registry import DATASETS, MODELS

FOLDER = ROOT / "configs" / "scene_classification"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py"))
SMALL = [
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "train_dataloader.dataset.indices=4",
    "train_dataloader.dataset.pipeline.1.scale=64",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "val_dataloader.dataset.pipeline.1.scale=(64,64)",
    "test_dataloader.num_workers=0",
    "test_dataloader.dataset.pipeline.1.scale=(64,64)",
    "model.backbone.img_size=64",
    "param_scheduler.1.begin=0",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both data sets as published, and their list files."""
    root = tmp_path_factory.mktemp("data")
    images = {
        "ucmerced": (root / "ucmerced/UCMerced_LandUse/Images", UCMERCED_CLASSES, "{cls}{index:02d}.tif", 5),
        "aid": (root / "aid/AID", AID_CLASSES, "{cls}_{index}.jpg", 4),
    }
    for name, (folder, classes, files, per_class) in images.items():
        write_scenes(folder, classes, files, per_class, size=32)
        assert tool("prepare_data")([name, "--source", str(folder), "--out", str(root / name / "splits")]) == 0
    return root


@pytest.mark.parametrize("dataset", ["ucmerced", "aid"])
def test_whole_life(dataset, data, tmp_path):
    life = exercise(f"scene_classification/dynamicvis-nano_linear_{dataset}.py", data, tmp_path, *SMALL)
    names = {"accuracy/top1", "single-label/precision", "single-label/recall", "single-label/f1-score"}
    assert names <= set(life.metrics)
    assert names <= set(life.validation)
    assert all(0 <= life.metrics[name] <= 100 for name in names)
    assert list(tmp_path.glob("best_single-label_f1-score_epoch_*.pth"))
    count = {"ucmerced": 21, "aid": 60}[dataset]
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + count
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_the_small_run_learns_colours(data, tmp_path, monkeypatch):
    """A few iterations are enough for classes that differ in colour only."""
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    config = str(FOLDER / "dynamicvis-nano_linear_ucmerced-96.py")
    shared = ["--work-dir", str(tmp_path), "--cfg-options", "model.backbone.img_size=32", "log_level=ERROR"]
    training = [
        "train_dataloader.batch_size=16",
        "train_dataloader.dataset.pipeline.1.scale=32",
        "val_dataloader.dataset.pipeline.1.scale=(32,32)",
        "train_cfg.max_epochs=8",
        "train_cfg.val_interval=8",
    ]
    tool("train")([config, *shared, *training])
    tool("test")([config, str(tmp_path / "epoch_8.pth"), *shared, "test_dataloader.dataset.pipeline.1.scale=(32,32)"])
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy/top1"] > 50


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    config = Config.fromfile(FOLDER / f"{name}.py")
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.device("meta"):
        model = MODELS.build(config.model)
    arch = config.model.backbone.arch
    assert model.backbone.dims[-1] == {"nano": 256, "base": 768, "large": 1024}[arch]
    if "frozen" in name:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        return
    classes = {"ucmerced": 21, "aid": 30}[name.split("_")[-1].split("-")[0]]
    assert model.head.fc.weight.shape == (classes, model.backbone.dims[-1])
    assert model.neck.post_meanpool_norm.weight.shape == (model.backbone.dims[-1],)
    if "-96" not in name:
        stages = model.backbone.stages
        trained = [any(parameter.requires_grad for parameter in stage.parameters()) for stage in stages]
        assert trained == [False, True, True, True]
        assert (config.optim_wrapper.optimizer.lr, config.train_dataloader.batch_size) == (4e-4, 64)
        assert config.train_cfg.max_epochs == {21: 600, 30: 500}[classes]
        assert [augment.type for augment in config.model.train_cfg.augments] == ["Mixup", "CutMix"]


def test_the_neck_is_mean_and_norm(seeded):
    neck = MODELS.build({"type": "dynamicvis.MeanPoolNorm", "in_channels": 6})
    maps = (torch.zeros(2, 3, 8, 8), torch.randn(2, 6, 4, 5, generator=seeded))
    (features,) = neck(maps)
    mean = maps[1].flatten(2).mean(dim=2)
    expected = (mean - mean.mean(dim=1, keepdim=True)) / (mean.var(dim=1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(features, expected)
    assert set(neck.state_dict()) == {"post_meanpool_norm.weight", "post_meanpool_norm.bias"}


def test_flipped_views_are_averaged(data, tmp_path, monkeypatch):
    """The config's tta_pipeline gives four views, tta_model their mean."""
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    config = Config.fromfile(FOLDER / "dynamicvis-nano_linear_ucmerced.py")
    config.model.backbone.img_size = 64
    config.tta_pipeline[1].scale = (64, 64)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = DATASETS.build({**config.test_dataloader.dataset, "pipeline": config.tta_pipeline})
        model = MODELS.build({**config.tta_model, "module": config.model}).eval()
        batch = pseudo_collate([dataset[0], dataset[1]])
        assert len(batch["inputs"]) == 4
        view = [views[0] for views in batch["inputs"]]
        for flipped, dims in zip(view[1:], ((2,), (1,), (1, 2)), strict=True):
            torch.testing.assert_close(flipped, view[0].flip(*dims))
        merged = model.test_step(batch)
        single = [
            model.module.test_step({"inputs": [image], "data_samples": [samples[0]]})[0].pred_score
            for image, samples in zip(view, batch["data_samples"], strict=True)
        ]
    torch.testing.assert_close(merged[0].pred_score, torch.stack(single).mean(dim=0))


def test_frozen_features_tell_colours(data, tmp_path, monkeypatch, untrained):
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    options = [
        *(f"test_dataloader.dataset.datasets.{part}.pipeline.1.scale=(64,64)" for part in (0, 1)),
        "test_dataloader.num_workers=0",
        "test_evaluator.neighbors=3",
        "model.backbone.img_size=64",
        "log_level=ERROR",
    ]
    config = str(FOLDER / "dynamicvis-nano_frozen_ucmerced.py")
    tool("test")([config, str(untrained), "--work-dir", str(tmp_path), "--cfg-options", *options])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) == {f"frozen/{kind}/{name}" for kind in ("knn", "linear") for name in ("accuracy", "f1")}
    assert min(metrics.values()) > 0.5


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a model whose backbone was never trained."""
    torch.manual_seed(0)
    backbone = MODELS.build({"type": "dynamicvis.DynamicVis", "arch": "nano", "img_size": 64})
    path = tmp_path_factory.mktemp("untrained") / "epoch_0.pth"
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}}, path)
    return path
