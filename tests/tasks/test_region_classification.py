"""Whole lives of the configs of pretraining and region classification."""

from __future__ import annotations

from pathlib import Path

import pytest
from exercise import exercise
from mmengine.config import Config
from region_data import make_shards
from tools_helpers import ROOT

from dynamicvis.data.fmow import FMOW_CLASSES
from dynamicvis.registry import MODELS

SMALL = (
    "model.backbone.arch=test_nano",
    "model.in_channels=[16,32,48,64]",
    "model.channels=16",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.batch_size=2",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
)
PIPELINE = "train_dataloader.dataset.dataset.pipeline"
TO_64 = (
    f"{PIPELINE}.4.scale=(64,64)",
    f"{PIPELINE}.4.ratio_range=(0.6,1.5)",
    f"{PIPELINE}.5.crop_size=(64,64)",
    f"{PIPELINE}.6.size=(64,64)",
)
FMOW_TO_64 = (
    *TO_64,
    *(f"{split}_dataloader.dataset.pipeline.2.scale=(64,64)" for split in ("val", "test")),
    *(f"{split}_dataloader.dataset.pipeline.3.size=(64,64)" for split in ("val", "test")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate((("train", 4), ("val", 3), ("test_gt", 3))):
        make_shards(folder / "fmow" / split, count, FMOW_CLASSES, seed=seed)
    for seed, (split, count) in enumerate((("train", 4), ("val", 3), ("test", 3))):
        make_shards(folder / "mosaics" / split, count, [f"class {i}" for i in range(21)], seed=seed)
    return folder


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("pretraining/dynamicvis-base_fmow.py", FMOW_TO_64),
        ("pretraining/dynamicvis-large_fmow.py", FMOW_TO_64),
        ("pretraining/dynamicvis-nano_mosaics.py", TO_64),
        ("region_classification/dynamicvis-nano_fmow.py", FMOW_TO_64),
    ],
)
def test_life(config, options, data, tmp_path):
    life = exercise(config, data, tmp_path / "work", *SMALL, *options)
    assert {"regions/precision", "regions/recall", "regions/f1", "regions/accuracy"} <= life.metrics.keys()
    # Three images each, with 2, 3 and 4 regions for validation and 3, 4 and 1 for the test: each counts once.
    assert (life.validation["regions/count"], life.metrics["regions/count"]) == (9, 8)
    assert (tmp_path / "work/out").is_dir()
    assert list((tmp_path / "work").glob("best_regions_f1_epoch_*.pth"))


@pytest.mark.parametrize(("name", "parameters"), [("base", 41_404_801), ("large", 96_024_385)])
def test_models_have_the_size_of_the_reference(name, parameters):
    config = Config.fromfile(ROOT / "configs/pretraining" / f"dynamicvis-{name}_fmow.py")
    assert config.metainfo.classes == FMOW_CLASSES
    assert sum(value.numel() for value in MODELS.build(config.model).parameters()) == parameters


@pytest.mark.parametrize("name", ["nano", "base", "large"])
def test_region_classification_is_the_model_and_data_of_pretraining(name):
    mine, theirs = (
        Config.fromfile(ROOT / "configs" / task / f"dynamicvis-{name}_fmow.py").to_dict()
        for task in ("region_classification", "pretraining")
    )
    for part in ("model", "test_dataloader", "test_evaluator", "metainfo"):
        assert mine[part] == theirs[part]
