"""Whole lives of the change-detection configs, each on small data in its own layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from change_scenes import make_levir_cd, make_oscd, make_places, make_whu_cd
from exercise import Life, exercise
from tools_helpers import tool

TINY = [
    "model.backbone.arch=test_nano",
    "model.backbone.img_size=64",
    "model.pre_neck.in_channels=[16,32,48,64]",
    "model.data_preprocessor.size=(64,64)",
    "model.test_cfg.crop_size=(64,64)",
    "model.test_cfg.stride=(32,32)",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.pipeline.4.crop_size=(64,64)",
    *(f"{split}_dataloader.num_workers=0" for split in ("train", "val", "test")),
]
# Of the configs of the paper's data sets.
LONG = [
    "train_dataloader.persistent_workers=False",
    "val_dataloader.persistent_workers=False",
    "model.pre_neck.out_channels=16",
    *(f"model.{part}.in_channels=[16,16,16,16,16]" for part in ("fusion", "neck", "decode_head")),
    "model.decode_head.channels=16",
    # Warm-up and cosine within two epochs.
    "param_scheduler.0.end=1",
    "param_scheduler.1.begin=0",
]


def small(side: int) -> list[str]:
    """Options that train and test at ``side`` pixels."""
    pipelines = {"train": 3, "val": 1, "test": 1}
    return [f"{split}_dataloader.dataset.pipeline.{index}.scale=({side},{side})" for split, index in pipelines.items()]


def check(life: Life) -> None:
    for metrics in (life.metrics, life.validation):
        figures = [metrics[f"change/{name}_changed"] for name in ("IoU", "F1", "precision", "recall")]
        assert all(0 <= figure <= 1 for figure in figures)
    assert life.validation["step"] == 2
    # Selected on the validation split.
    assert list(life.work.glob("best_change_IoU_changed_epoch_*.pth"))


def test_levir_cd(tmp_path: Path) -> None:
    make_levir_cd(tmp_path / "data" / "levir-cd", {"train": 4, "val": 1, "test": 2})
    options = [*TINY, *LONG, *small(128)]
    check(exercise("change_detection/dynamicvis-nano_siamese-unet_levir-cd.py", tmp_path / "data", tmp_path, *options))


def test_whu_cd(tmp_path: Path) -> None:
    make_whu_cd(tmp_path / "data" / "whu-cd", {"train": 4, "val": 1, "test": 2})
    options = [*TINY, *LONG, *small(64)]
    check(exercise("change_detection/dynamicvis-nano_siamese-unet_whu-cd.py", tmp_path / "data", tmp_path, *options))


def test_oscd_previews(tmp_path: Path) -> None:
    source = make_oscd(tmp_path / "source", {"train": ["alpha", "beta"], "test": ["delta"]})
    arguments = ["--tile", "50", "--stride", "50"]
    out = tmp_path / "data" / "oscd"
    assert tool("prepare_data")(["oscd", "--source", str(source), "--out", str(out), *arguments]) == 0
    # Eight tiles of the upper parts of two places; what is left whole is scaled by a factor.
    options = [*TINY, *LONG, small(64)[0], "train_dataloader.batch_size=4"]
    check(exercise("change_detection/dynamicvis-nano_siamese-unet_oscd.py", tmp_path / "data", tmp_path, *options))


def test_oscd_13_bands_as_published(tmp_path: Path) -> None:
    make_oscd(tmp_path / "data" / "oscd", {"train": ["alpha", "beta", "saclay_e"], "test": ["delta"]})
    inner = "train_dataloader.dataset.dataset.pipeline"
    options = [
        *(option.replace("train_dataloader.dataset.pipeline", inner) for option in [*TINY, *LONG]),
        f"{inner}.3.scale=(64,64)",
        "train_dataloader.dataset.times=2",
    ]
    config = "change_detection/dynamicvis-nano_siamese-unet_oscd-13bands.py"
    check(exercise(config, tmp_path / "data", tmp_path, *options))


@pytest.mark.parametrize(("name", "bands"), [("oscd-4bands", 4), ("landsat-cd", 6)])
def test_places_of_many_bands(name: str, bands: int, tmp_path: Path) -> None:
    source = make_places(tmp_path / "source", ["alpha", "beta", "gamma"], bands, size=(130, 64))
    out = tmp_path / "data" / name
    # Four tiles to train with, of the upper parts of two places.
    arguments = ["--source", str(source), "--out", str(out), "--test", "gamma", "--tile", "64", "--stride", "60"]
    assert tool("prepare_data")([name.removesuffix("-4bands"), *arguments]) == 0
    assert len(list((out / "train" / "label").iterdir())) == 4
    config = f"change_detection/dynamicvis-nano_siamese-unet_{name}.py"
    check(exercise(config, tmp_path / "data", tmp_path, *TINY, small(64)[0]))
