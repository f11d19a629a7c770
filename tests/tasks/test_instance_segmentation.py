from __future__ import annotations

import detection_scenes as scenes
import pytest
import torch
from exercise import exercise
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tools_helpers import ROOT, tool

from dynamicvis import create_backbone

SMALL = [
    "model.backbone.img_size=64",
    "model.test_cfg.rcnn.score_thr=0.0",
    "model.test_cfg.rcnn.max_per_img=5",
    *[f"{split}_dataloader.{name}" for split in ("train", "val", "test") for name in ("num_workers=0", "batch_size=2")],
]
IN_64 = [
    "param_scheduler.1.begin=0",  # the warm-up is longer than this life
    "model.train_cfg.rpn_proposal.max_per_img=50",
    "model.test_cfg.rpn.max_per_img=50",
    "model.train_cfg.rcnn.sampler.num=32",
    # Narrow, since region features of 256 channels take seconds; the full width is built below.
    "model.neck.out_channels=32",
    "model.rpn_head.in_channels=32",
    "model.rpn_head.feat_channels=32",
    "model.roi_head.bbox_roi_extractor.out_channels=32",
    "model.roi_head.bbox_head.in_channels=32",
    "model.roi_head.bbox_head.fc_out_channels=32",
    "model.roi_head.mask_roi_extractor.out_channels=32",
    "model.roi_head.mask_head.in_channels=32",
    "model.roi_head.mask_head.conv_out_channels=32",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.persistent_workers=False",
    "train_dataloader.dataset.pipeline.4.scale=(64,64)",
    "train_dataloader.dataset.pipeline.4.ratio_range=(0.8,1.2)",
    "train_dataloader.dataset.pipeline.5.crop_size=(64,64)",
    "train_dataloader.dataset.pipeline.6.size=(64,64)",
    "val_dataloader.dataset.pipeline.1.scale=(64,64)",
    "test_dataloader.dataset.pipeline.1.scale=(64,64)",
]
METRICS = {f"coco/{kind}_{name}" for kind in ("bbox", "segm") for name in ("mAP", "mAP_50", "mAP_75", "mAP_s")}


def prepare(*arguments: object) -> None:
    assert tool("prepare_data")([str(argument) for argument in arguments]) == 0


def test_ssdd(tmp_path):
    source = scenes.ssdd(tmp_path / "release", train=8, test=2)
    prepare("ssdd", "--source", source, "--out", tmp_path / "data" / "ssdd")
    config = "sar_instance_segmentation/dynamicvis-nano_mask-rcnn_ssdd.py"
    life = exercise(config, tmp_path / "data", tmp_path / "work", *SMALL, *IN_64, "train_dataloader.dataset.indices=4")
    assert set(life.metrics) >= METRICS
    assert set(life.validation) >= METRICS
    assert (tmp_path / "work" / "out" / "sheet.png").is_file()
    assert list((tmp_path / "work").glob("best_coco_segm_mAP_epoch_*.pth"))


def test_nwpu(tmp_path):
    source = scenes.nwpu(tmp_path / "release", 10)
    prepare("nwpu", "--source", source, "--out", tmp_path / "data" / "nwpu")
    config = "instance_segmentation/dynamicvis-nano_mask-rcnn_nwpu.py"
    life = exercise(config, tmp_path / "data", tmp_path / "work", *SMALL, *IN_64, "train_dataloader.dataset.indices=4")
    assert set(life.metrics) >= METRICS
    assert set(life.validation) >= METRICS


def test_sen2ships_in_four_bands(tmp_path):
    source = scenes.sen2ships(tmp_path / "release")
    prepare("sen2ships", "--source", source, "--out", tmp_path / "data" / "sen2ships", "--tile", 64, "--overlap", 16)
    few = scenes.FEW_SMALL_CROPS
    config = "instance_segmentation/dynamicvis-nano_mask-rcnn_sen2ships.py"
    life = exercise(config, tmp_path / "data", tmp_path / "work", *SMALL, *few)
    assert set(life.metrics) >= METRICS
    assert set(life.validation) >= METRICS


SSDD = "sar_instance_segmentation/dynamicvis-{}_mask-rcnn_ssdd.py"
NWPU = "instance_segmentation/dynamicvis-{}_mask-rcnn_nwpu.py"
BACKBONES = {"nano": 2_347_456 + 3 * 524_288, "base": 41_464_128, "large": 97_533_696}


@pytest.mark.parametrize("arch", BACKBONES)
@pytest.mark.parametrize(("config", "classes"), [(SSDD, 1), (NWPU, 10)])
def test_models_are_built_in_full(config, classes, arch):
    """The paper's model on every variant: backbone at 1024 pixels, FPN, RPN, region features twice, heads."""
    from mmdet.registry import MODELS

    settings = Config.fromfile(ROOT / "configs" / config.format(arch))
    assert len(settings.metainfo.classes) == classes
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build(settings.model)
    head = model.roi_head
    modules = {
        "backbone": model.backbone,
        "neck": model.neck,
        "rpn": model.rpn_head,
        "box features": head.bbox_roi_extractor,
        "box head": head.bbox_head,
        "mask features": head.mask_roi_extractor,
        "mask head": head.mask_head,
    }
    counts = {name: sum(values.numel() for values in module.parameters()) for name, module in modules.items()}
    convolution = 256 * 256 * 9 + 256
    assert counts == {
        "backbone": BACKBONES[arch],
        "neck": sum(256 * dim + 256 for dim in create_backbone(arch).dims) + 4 * convolution,
        "rpn": convolution + 6 * (1 + 4) * (256 + 1),  # three shapes of two sizes a place
        "box features": 1_638_656 + 258_305,
        "box head": (7 * 7 * 256 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * (classes + 1 + 4 * classes),
        "mask features": 1_638_656 + 258_305,
        "mask head": 4 * convolution + (256 * 256 * 4 + 256) + classes * (256 + 1),
    }
    assert sum(counts.values()) == sum(values.numel() for values in model.parameters())
    frozen = {name for name, values in model.named_parameters() if not values.requires_grad}
    assert frozen == {
        f"backbone.{name}" for name, _ in model.backbone.named_parameters() if name.startswith("stages.0.")
    }


@pytest.mark.parametrize("config", [SSDD, NWPU])
def test_weights_of_a_pretraining_reach_backbone_neck_and_both_region_features(config, tmp_path):
    from mmdet.registry import MODELS

    settings = Config.fromfile(ROOT / "configs" / config.format("nano")).model
    settings.backbone.update(arch="test_nano", img_size=64)
    settings.neck.in_channels = [16, 32, 48, 64]
    prefixes = {"backbone": "backbone.", "neck": "pre_neck.", "roi": "neck."}
    with DefaultScope.overwrite_default_scope("mmdet"):
        source = MODELS.build(settings)
        parts = {"backbone": source.backbone, "neck": source.neck, "roi": source.roi_head.bbox_roi_extractor}
        state = {
            prefixes[part] + name: torch.randn_like(value)
            for part, module in parts.items()
            for name, value in module.state_dict().items()
        }
        torch.save({"state_dict": {**state, "head.fc.weight": torch.zeros(63, 256)}}, tmp_path / "pretrained.pth")
        initial = dict(type="Pretrained", checkpoint=str(tmp_path / "pretrained.pth"))
        settings.backbone.init_cfg = dict(initial, prefix="backbone.")
        settings.neck.init_cfg = dict(initial, prefix="pre_neck.")
        settings.roi_head.bbox_roi_extractor.init_cfg = dict(initial, prefix="neck.")
        settings.roi_head.mask_roi_extractor.init_cfg = dict(initial, prefix="neck.")
        model = MODELS.build(settings)
        model.init_weights()
    targets = [
        ("backbone", model.backbone),
        ("neck", model.neck),
        ("roi", model.roi_head.bbox_roi_extractor),
        ("roi", model.roi_head.mask_roi_extractor),
    ]
    for part, module in targets:
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, state[prefixes[part] + name], msg=f"{part} {name}")


@pytest.mark.parametrize("config", [SSDD, NWPU])
def test_settings_are_those_of_the_papers_code(config):
    settings = Config.fromfile(ROOT / "configs" / config.format("base"))
    assert (settings.train_cfg.max_epochs, settings.train_cfg.val_interval) == (800, 10)
    assert (settings.optim_wrapper.optimizer.lr, settings.train_dataloader.batch_size) == (1e-4, 8)
    assert settings.model.backbone.frozen_stages == 1
    files = [settings[f"{split}_dataloader"].dataset.ann_file for split in ("train", "val", "test")]
    assert files == [f"annotations/{split}.json" for split in ("train", "val", "test")]
    assert settings.val_evaluator.ann_file.endswith("/annotations/val.json")
    assert settings.test_evaluator.ann_file.endswith("/annotations/test.json")
