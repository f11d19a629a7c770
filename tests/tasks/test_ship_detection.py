from __future__ import annotations

from pathlib import Path
from typing import Any

import detection_scenes as scenes
import pytest
import torch
from exercise import exercise
from mmengine.config import Config
from mmengine.hooks.test_time_aug_hook import build_runner_with_tta
from mmengine.registry import DefaultScope
from tools_helpers import ROOT, tool

from dynamicvis import create_backbone

SMALL = [
    "model.backbone.img_size=64",
    "model.test_cfg.score_thr=0.0",
    *[f"{split}_dataloader.{name}" for split in ("train", "val", "test") for name in ("num_workers=0", "batch_size=2")],
]
IN_64 = [
    "param_scheduler.1.begin=0",  # the warm-up is longer than this life
    "train_dataloader.persistent_workers=False",
    "val_dataloader.persistent_workers=False",
    "train_dataloader.dataset.pipeline.4.scale=(64,64)",
    "train_dataloader.dataset.pipeline.5.crop_size=(64,64)",
    "train_dataloader.dataset.pipeline.6.size=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale=(64,64)",
    "test_dataloader.dataset.pipeline.1.scale=(64,64)",
]
LEVIR = "ship_detection/dynamicvis-nano_fcos_levir-ship.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared LEVIR-Ship and sen2ships."""
    folder = tmp_path_factory.mktemp("ships")
    levir = scenes.levir_ship(folder / "levir", {"train": 4, "val": 2, "test": 2})
    ships = scenes.sen2ships(folder / "sen2ships")
    prepare = tool("prepare_data")
    assert prepare(["levir-ship", "--source", str(levir), "--out", str(folder / "data" / "levir-ship")]) == 0
    options = ["--tile", "64", "--overlap", "16"]
    assert prepare(["sen2ships", "--source", str(ships), "--out", str(folder / "data" / "sen2ships"), *options]) == 0
    return folder / "data"


def test_levir_ship(data, tmp_path):
    life = exercise(LEVIR, data, tmp_path, *SMALL, *IN_64)
    assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_s", "coco/bbox_mAP_m"} <= set(life.metrics)
    # One threshold, so that the mean is AP50.
    assert life.metrics["coco/bbox_mAP"] == life.metrics["coco/bbox_mAP_50"]
    assert "coco/bbox_mAP" in life.validation
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert list(tmp_path.glob("best_coco_bbox_mAP_epoch_*.pth"))


def test_sen2ships_in_four_bands(data, tmp_path):
    few = scenes.FEW_SMALL_CROPS
    life = exercise("ship_detection/dynamicvis-nano_fcos_sen2ships.py", data, tmp_path, *SMALL, *few)
    assert {"coco/bbox_mAP", "coco/bbox_mAP_s"} <= set(life.metrics)
    assert "coco/bbox_mAP" in life.validation
    state = torch.load(tmp_path / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    assert state["backbone.stages.0.merge.projection.weight"].shape == (32, 4, 7, 7)


def test_flips_at_test_time_give_boxes_of_every_view(data, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    config = Config.fromfile(ROOT / "configs" / LEVIR)
    config.merge_from_dict(
        {
            "work_dir": str(tmp_path),
            "log_level": "ERROR",
            "model.backbone.img_size": 64,
            "model.test_cfg.score_thr": 0.0,
            "tta_model.tta_cfg.nms.iou_threshold": 1.0,
            "tta_model.tta_cfg.max_per_img": 1000,
            "test_dataloader.num_workers": 0,
            "tta_pipeline.1.transforms.0.0.scale": (64, 64),
            "test_dataloader.dataset.pipeline.1.scale": (64, 64),
        }
    )
    config.load_from = None
    runner = build_runner_with_tta(config.copy())
    seen: list[Any] = []
    single = runner.model
    runner.call_hook("before_run")
    runner._test_loop = runner.build_test_loop(runner._test_loop)
    runner.call_hook("before_test")
    for batch in runner.test_dataloader:
        with torch.no_grad():
            views = [
                single.test_step(
                    {name: [value[index]] if name == "inputs" else value[index] for name, value in batch.items()}
                )
                for index in range(3)
            ]
            merged = runner.model.test_step(batch)
        seen.append((views, merged))
    assert seen


@pytest.mark.parametrize(
    ("arch", "backbone"), [("nano", 2_347_456 + 3 * 524_288), ("base", 41_464_128), ("large", 97_533_696)]
)
def test_models_are_built_in_full(arch, backbone):
    """The paper's model on every variant: backbone at 1024 pixels, FPN, head."""
    from mmdet.registry import MODELS

    config = Config.fromfile(ROOT / "configs" / "ship_detection" / f"dynamicvis-{arch}_fcos_levir-ship.py")
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(config.model)
    counts = {name: sum(values.numel() for values in child.parameters()) for name, child in model.named_children()}
    convolution = 256 * 256 * 9 + 256
    assert counts["backbone"] == backbone
    assert counts["neck"] == sum(256 * dim + 256 for dim in create_backbone(arch).dims) + 4 * convolution
    # Four convolutions with group norm for classes and for boxes; class, box, centerness; a scale a level.
    assert counts["bbox_head"] == 8 * (convolution + 512) + 6 * (256 * 9 + 1) + 5
