from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from dynamicvis import create_backbone

CONFIGS = Path(__file__).parents[2] / "configs"
DIMS = (16, 32, 48, 64)


def load(name: str) -> Config:
    config = Config.fromfile(CONFIGS / name)
    if config.model.backbone.type == "dynamicvis.DynamicVis":
        config.merge_from_dict(
            {"model.backbone.arch": "test_nano", "model.backbone.img_size": 64, "model.neck.in_channels": list(DIMS)}
        )
    return config


def detection_sample(size: int, boxes: list[list[float]]) -> object:
    from mmdet.structures import DetDataSample

    shape = (size, size)
    sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
    labels = torch.zeros(len(boxes), dtype=torch.long)
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)
    return sample


@pytest.mark.parametrize(
    "name",
    [
        "tree_detection/dynamicvis-nano_fcos_neon-trees.py",
        "tree_detection/resnet18_fcos_neon-trees.py",
        "ship_detection/dynamicvis-nano_fcos_levir-ship.py",
        "ship_detection/dynamicvis-base_fcos_levir-ship.py",
    ],
)
def test_detector_of_every_config_learns_and_predicts(name):
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(load(name).model)
    model.init_weights()
    # Two sizes of object and an image without any.
    samples = [detection_sample(128, [[10.0, 10.0, 40.0, 44.0], [60.0, 50.0, 120.0, 125.0]]), detection_sample(128, [])]
    data = {"inputs": [torch.randint(0, 255, (3, 128, 128)) for _ in samples], "data_samples": samples}
    losses = model(**model.data_preprocessor(data, training=True), mode="loss")
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_centerness"}
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    # A router learns only where its stage keeps some tokens; everything else must have a gradient.
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(".norm." in name or ".scales." in name or "stages.0" in name for name in without), without
    model.test_cfg.score_thr = 0.0
    results = model.eval().test_step(data)
    boxes = results[0].pred_instances.bboxes
    assert 0 < len(boxes) <= model.test_cfg.max_per_img
    assert boxes.min() >= 0
    assert boxes.max() <= 128


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("tree_detection/dynamicvis-nano_fcos_neon-trees.py", "nano"),
        ("ship_detection/dynamicvis-nano_fcos_levir-ship.py", "nano"),
        ("ship_detection/dynamicvis-base_fcos_levir-ship.py", "base"),
    ],
)
def test_necks_fit_the_variants(name, arch):
    model = Config.fromfile(CONFIGS / name).model
    assert model.backbone.arch == arch
    assert tuple(model.neck.in_channels) == create_backbone(arch).dims


def test_tree_models_differ_in_nothing_but_the_backbone():
    ours, theirs = (
        Config.fromfile(CONFIGS / "tree_detection" / f"{name}_fcos_neon-trees.py").to_dict()
        for name in ("dynamicvis-nano", "resnet18")
    )
    for config in (ours, theirs):
        config["model"].pop("backbone")
        config["model"]["neck"].pop("in_channels")
        config.pop("model_card", None)
    assert ours == theirs


def test_ship_configs_select_on_validation_and_never_on_test():
    config = Config.fromfile(CONFIGS / "ship_detection/dynamicvis-base_fcos_levir-ship.py")
    files = [config[f"{split}_dataloader"].dataset.ann_file for split in ("train", "val", "test")]
    assert files == [f"annotations/{split}.json" for split in ("train", "val", "test")]
    assert config.val_evaluator.ann_file.endswith("val.json")
    assert config.test_evaluator.ann_file.endswith("test.json")
    assert config.default_hooks.checkpoint.save_best == "coco/bbox_mAP"


@pytest.mark.parametrize(
    "name", ["tree_detection/dynamicvis-nano_fcos_neon-trees.py", "ship_detection/dynamicvis-nano_fcos_levir-ship.py"]
)
def test_weight_decay_leaves_norms_biases_and_state_parameters_alone(name):
    from mmdet.registry import MODELS

    config = load(name)
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    decayed = {name for name, parameter in model.named_parameters() if decay[parameter] > 0}
    spared = {name for name, _ in model.named_parameters()} - decayed
    state = [name for name in spared if name.endswith((".A_log", ".D", "pos_embed"))]
    assert len(state) == 1 + 2 * 5
    assert all(parameter.ndim > 1 for name, parameter in model.named_parameters() if name in decayed)
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    assert weights - decayed == {name for name in state if not name.endswith(".D")}
    assert {decay[parameter] for name, parameter in model.named_parameters() if name in decayed} == {0.05}


def test_segmentor_of_mmseg_trains_on_it():
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    head = {"channels": 16, "num_classes": 3, "dropout_ratio": 0.0, "align_corners": False}
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(
            {
                "type": "EncoderDecoder",
                "backbone": {"type": "dynamicvis.DynamicVis", "arch": "test_nano"},
                "decode_head": {
                    "type": "UPerHead",
                    "in_channels": list(DIMS),
                    "in_index": [0, 1, 2, 3],
                    "pool_scales": (1, 2),
                    **head,
                },
                "train_cfg": {},
                "test_cfg": {"mode": "whole"},
            }
        )
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 64, 64)))
        images = torch.randn(2, 3, 64, 64)
        loss = model.loss(images, [sample, sample])["decode.loss_ce"]
        loss.backward()
        assert model.backbone.pos_embed.grad.abs().sum() > 0
        assert model.eval().encode_decode(images, [sample.metainfo] * 2).shape == (2, 3, 64, 64)


def test_classifier_of_mmpretrain_trains_on_it():
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(
            {
                "type": "ImageClassifier",
                "backbone": {"type": "dynamicvis.DynamicVis", "arch": "test_nano", "out_indices": (3,)},
                "neck": {"type": "GlobalAveragePooling"},
                "head": {"type": "LinearClsHead", "num_classes": 5, "in_channels": DIMS[-1]},
            }
        )
        images = torch.randn(2, 3, 64, 64)
        loss = model.loss(images, [DataSample().set_gt_label(label) for label in (1, 4)])["loss"]
        loss.backward()
        assert model.backbone.pos_embed.grad.abs().sum() > 0
        assert isinstance(model.eval().predict(images)[0].pred_label, torch.Tensor)
