from __future__ import annotations

import json
from pathlib import Path

import detection_scenes as scenes
import pytest
import torch
from exercise import exercise
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
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


def test_levir_ship(data, tmp_path, monkeypatch):
    life = exercise(LEVIR, data, tmp_path, *SMALL, *IN_64)
    assert {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_s", "coco/bbox_mAP_m"} <= set(life.metrics)
    # One threshold, so that the mean is AP50.
    assert life.metrics["coco/bbox_mAP"] == life.metrics["coco/bbox_mAP_50"]
    assert "coco/bbox_mAP" in life.validation
    assert (tmp_path / "out" / "sheet.png").is_file()
    assert list(tmp_path.glob("best_coco_bbox_mAP_epoch_*.pth"))
    # Views of the same image merge to other boxes, from the same weights.
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    arguments = [
        str(ROOT / "configs" / LEVIR),
        str(tmp_path / "epoch_2.pth"),
        "--tta",
        "--work-dir",
        str(tmp_path / "tta"),
    ]
    arguments += ["--out", str(tmp_path / "flips"), "--cfg-options", "log_level=ERROR", *SMALL, *IN_64]
    tool("test")([*arguments, "tta_pipeline.1.transforms.0.0.scale=(64,64)"])
    once, merged = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("out", "flips"))
    assert 0 < len(merged) <= 2 * 100
    assert {item["image_id"] for item in merged} == {item["image_id"] for item in once} == {1, 2}
    kept = [item for item in merged if any(abs(item["score"] - other["score"]) < 1e-6 for other in once)]
    assert 0 < len(kept) < len(merged)


def test_sen2ships_in_four_bands(data, tmp_path):
    few = scenes.FEW_SMALL_CROPS
    life = exercise("ship_detection/dynamicvis-nano_fcos_sen2ships.py", data, tmp_path, *SMALL, *few)
    assert {"coco/bbox_mAP", "coco/bbox_mAP_s"} <= set(life.metrics)
    assert "coco/bbox_mAP" in life.validation
    state = torch.load(tmp_path / "epoch_2.pth", map_location="cpu", weights_only=False)["state_dict"]
    assert state["backbone.stages.0.merge.projection.weight"].shape == (32, 4, 7, 7)


def test_flips_at_test_time_map_every_view_back(data, monkeypatch):
    from mmdet.registry import MODELS

    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    torch.manual_seed(0)
    config = Config.fromfile(ROOT / "configs" / LEVIR)
    config.merge_from_dict(
        {
            "model.backbone.img_size": 64,
            "model.test_cfg.score_thr": 0.0,
            "tta_model.tta_cfg.nms.iou_threshold": 1.0,
            "tta_model.tta_cfg.max_per_img": 1000,
            "tta_pipeline.1.transforms.0.0.scale": (128, 128),
        }
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model).eval()
        merging = MODELS.build({**config.tta_model, "module": model})
        path = data / "levir-ship" / "images" / "test" / "img_0.png"
        views = Compose(config.tta_pipeline)({"img_path": str(path), "img_id": 1, "instances": []})
        batch = pseudo_collate([views])
        with torch.no_grad():
            (merged,) = merging.test_step(batch)
            plain, across, down = (
                model.test_step({"inputs": batch["inputs"][index], "data_samples": batch["data_samples"][index]})[0]
                for index in range(3)
            )
    assert torch.equal(batch["inputs"][1][0], batch["inputs"][0][0].flip(2))
    assert torch.equal(batch["inputs"][2][0], batch["inputs"][0][0].flip(1))
    boxes = [plain.pred_instances.bboxes]
    left, top, right, bottom = across.pred_instances.bboxes.unbind(1)
    boxes.append(torch.stack([64 - right, top, 64 - left, bottom], 1))
    left, top, right, bottom = down.pred_instances.bboxes.unbind(1)
    boxes.append(torch.stack([left, 64 - bottom, right, 64 - top], 1))
    scores = torch.cat([view.pred_instances.scores for view in (plain, across, down)])
    order = scores.argsort(descending=True, stable=True)
    assert len(order) == 300
    torch.testing.assert_close(merged.pred_instances.scores, scores[order])
    found, expected = merged.pred_instances.bboxes, torch.cat(boxes)[order]
    torch.testing.assert_close(found.sum(0), expected.sum(0), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found[:20], expected[:20], rtol=1e-4, atol=1e-3)


def test_flips_need_a_config_that_says_how(data, monkeypatch, tmp_path):
    monkeypatch.setenv("DYNAMICVIS_DATA", str(data))
    config = str(ROOT / "configs" / "ship_detection" / "dynamicvis-nano_fcos_sen2ships.py")
    with pytest.raises(SystemExit, match=r"--tta needs tta_model and tta_pipeline, which .*sen2ships.py lacks"):
        tool("test")([config, "none.pth", "--tta", "--work-dir", str(tmp_path)])


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
