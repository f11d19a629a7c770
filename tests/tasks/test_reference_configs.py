"""Whole lives of configs written as the reference's are: its names in its scopes, on small data in its layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tools_helpers import tool

SHARED = """
custom_imports = dict(imports=["dynamicvis.mm.reference"])
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend="gloo"))
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=1),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=True, save_best=SAVE_BEST, rule="greater"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=VISUALIZATION,
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type=VISUALIZER, vis_backends=vis_backends, name="visualizer")
log_level = "ERROR"
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=1),
]
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05))
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
backbone = dict(
    type="mmpretrain.DynamicVisBackbone",
    arch=dict(c_embed_dims=[16, 32, 48, 64], num_layers=[1, 1, 2, 1]),
    path_type="forward_reverse_mean",
    sampling_scale=dict(type="decay", val=0.1),
    global_token_cfg=dict(pos="head", num=-1),
    is_softmax_on_x=True,
    img_size=64,
    patch_sizes=[7, 3, 3, 3],
    strides=[4, 2, 2, 2],
    spatial_token_keep_ratios=[8, 4, 2, 1],
    out_indices=(0, 1, 2, 3),
    out_type="featmap",
)
mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
norm_cfg = dict(type="SyncBN", requires_grad=True)


def loader(dataset, shuffle=False):
    return dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=shuffle), dataset=dataset)
"""

CLASSIFICATION = """
default_scope = "mmpretrain"
data_preprocessor = dict(num_classes=30, mean=mean, std=std, to_rgb=True)
backbone.update(out_indices=(3,), out_type="avg_featmap", frozen_stages=1)
model = dict(
    type="ImageClassifier",
    backbone=backbone,
    head=dict(type="DynamicVisClsHead", num_classes=30, in_channels=64, loss=dict(type="CrossEntropyLoss")),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=64), dict(type="PackInputs")]
data = dict(type="RSClsDataset", data_name="AID", data_root="DATA", ann_file="DATA/list.txt", pipeline=pipeline)
train_dataloader = loader(data, True)
val_dataloader = test_dataloader = loader(data)
val_evaluator = test_evaluator = [dict(type="SingleLabelMetric", num_classes=30), dict(type="Accuracy")]
"""

DETECTION = """
default_scope = "mmdet"
model = dict(
    type="FCOS",
    data_preprocessor=dict(type="DetDataPreprocessor", mean=mean, std=std, bgr_to_rgb=True, pad_size_divisor=32),
    backbone=backbone,
    neck=dict(type="FPN", in_channels=[16, 32, 48, 64], out_channels=32, num_outs=5),
    bbox_head=dict(type="FCOSHead", num_classes=1, in_channels=32, feat_channels=32, stacked_convs=1,
        strides=[4, 8, 16, 32, 64], regress_ranges=((0, 20), (16, 40), (32, 80), (64, 160), (128, 1024)),
        norm_on_bbox=True, centerness_on_reg=True, center_sampling=True, conv_bias=True),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.6), max_per_img=9),
)
pipeline = [dict(type="LoadImageFromFile", to_float32=True), dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True), dict(type="PackDetInputs")]
data = dict(type="LevirShipDetDataset", data_root="DATA", ann_file="ships.json", data_prefix=dict(img="A"),
    pipeline=pipeline)
train_dataloader = loader(data, True)
val_dataloader = test_dataloader = loader(dict(data, test_mode=True))
val_evaluator = test_evaluator = dict(type="CocoMetric", metric=["bbox"], iou_thrs=[0.5], ann_file="DATA/ships.json")
"""

SEGMENTATION = """
default_scope = "mmseg"
head = dict(dropout_ratio=0.1, num_classes=2, norm_cfg=norm_cfg, align_corners=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=mean, std=std, bgr_to_rgb=True, size_divisor=32),
    backbone=backbone,
    neck=dict(type="mmdet.FPN", in_channels=[16, 32, 48, 64], out_channels=16, num_outs=4),
    decode_head=dict(type="UPerHead", in_channels=[16] * 4, in_index=[0, 1, 2, 3], channels=16, **head),
    auxiliary_head=dict(type="FCNHead", in_channels=16, in_index=2, channels=16, num_convs=1, concat_input=False,
        **head),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(32, 32)),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotationsToBinary"), dict(type="PackSegInputs")]
data = dict(type="MassachusettsRoadsSegDataset", data_root="DATA", pipeline=pipeline,
    data_prefix=dict(img_path="A", seg_map_path="label"))
train_dataloader = loader(data, True)
val_dataloader = test_dataloader = loader(data)
val_evaluator = test_evaluator = dict(type="SegMetric")
"""

CHANGE = """
default_scope = "opencd"
model = dict(
    type="SiamEncoderDecoder",
    data_preprocessor=dict(type="DualInputSegDataPreProcessor", mean=mean * 2, std=std * 2, bgr_to_rgb=True,
        size_divisor=32, pad_val=0, seg_pad_val=255, test_cfg=dict(size_divisor=32)),
    backbone=backbone,
    neck=dict(type="SequentialNeck", necks=[
        dict(type="DualInputsFPN", in_channels=[16, 32, 48, 64], out_channels=16, num_outs=5),
        dict(type="DualInputsSimpleFusionNeck", in_channels=[16] * 5, return_tuple=True),
        dict(type="mmseg.UNetDecodeNeck", in_channels=[16] * 5, norm_cfg=norm_cfg),
    ]),
    decode_head=dict(type="MLPSegHead", out_size=(16, 16), in_channels=[16] * 5, in_index=[0, 1, 2, 3, 4], channels=16,
        dropout_ratio=0, num_classes=2, norm_cfg=norm_cfg, align_corners=False, loss_decode=[
            dict(type="mmseg.CrossEntropyLoss", loss_weight=1.0), dict(type="mmseg.DiceLoss", loss_weight=3.0)]),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(32, 32)),
)
train_pipeline = [
    dict(type="MultiImgLoadImageFromFile"), dict(type="MultiImgLoadAnnotations"),
    dict(type="MultiImgRandomRotate", prob=0.5, degree=180),
    dict(type="MultiImgRandomResize", scale=(64, 64), ratio_range=(0.5, 1.8), keep_ratio=True),
    dict(type="MultiImgRandomCrop", crop_size=(64, 64), cat_max_ratio=0.75),
    dict(type="MultiImgRandomFlip", prob=0.5, direction="horizontal"),
    dict(type="MultiImgPhotoMetricDistortion", brightness_delta=10, contrast_range=(0.8, 1.2),
        saturation_range=(0.8, 1.2), hue_delta=10),
    dict(type="MultiImgPad", size=(64, 64)),
    dict(type="MultiImgPackSegInputs"),
]
pipeline = [dict(type="MultiImgLoadImageFromFile"), dict(type="MultiImgResize", scale=(80, 80), keep_ratio=True),
    dict(type="MultiImgLoadAnnotations"), dict(type="MultiImgPackSegInputs")]
data = dict(type="LEVIR_CD_Dataset", data_root="DATA",
    data_prefix=dict(seg_map_path="label", img_path_from="A", img_path_to="B"))
train_dataloader = loader(dict(data, pipeline=train_pipeline), True)
val_dataloader = test_dataloader = loader(dict(data, pipeline=pipeline))
val_evaluator = test_evaluator = dict(type="CDMetric")
"""

PRETRAINING = """
default_scope = "mmdet"
backbone.update(sampling_scale=dict(type="fixed", val=0.1))
data_preprocessor = dict(type="DetDataPreprocessor", mean=mean, std=std, bgr_to_rgb=True, pad_size_divisor=32)
model = dict(
    type="mmpretrain.DynamicVisPretrainClassifier",
    backbone=backbone,
    pre_neck=dict(type="FPN", in_channels=[16, 32, 48, 64], out_channels=256, num_outs=5),
    neck=dict(type="GenericRoIExtractor", aggregation="sum", out_channels=256, featmap_strides=[4, 8, 16, 32],
        roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2, use_torchvision=True),
        pre_cfg=dict(type="ConvModule", in_channels=256, out_channels=256, kernel_size=5, padding=2, inplace=False),
        post_cfg=dict(type="GeneralizedAttention", in_channels=256, spatial_range=-1, num_heads=6,
            attention_type="0100", kv_stride=2)),
    head=dict(type="mmpretrain.DynamicVisPretrainClsHead", num_classes=2, with_mil=True, in_channels=256,
        loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, mode="original")),
)
pipeline = [dict(type="mmpretrain.LoadImageFromImgbytes", to_float32=True), dict(type="RandomFlip", prob=0.5),
    dict(type="Resize", scale=(64, 64), keep_ratio=True), dict(type="Pad", size=(64, 64)),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=True), dict(type="PackDetInputs")]
data = dict(type="mmdet.PretrainFmowWebDataset", shards_path_or_url="DATA/shards/{00000..00001}.tar", data_name="Fmow",
    per_gpu_batch_size=1, num_workers=1, pipeline=pipeline, shuffle_buffer_size=5000)
train_dataloader = dict(batch_size=2, num_workers=2, persistent_workers=True, sampler=None, dataset=data)
val_dataloader = test_dataloader = dict(batch_size=2, num_workers=0, sampler=None, dataset=dict(data, test_mode=True))
val_evaluator = test_evaluator = dict(type="mmpretrain.SingleLabelMetric", num_classes=2)
"""

# Task: config, metric of the best checkpoint, hook and visualizer as the config of the task has them.
TASKS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "classification": (CLASSIFICATION, "single-label/f1-score", {"type": "VisualizationHook"}, "UniversalVisualizer"),
    "detection": (DETECTION, "coco/bbox_mAP", {"type": "DetVisualizationHook", "draw": False}, "DetLocalVisualizer"),
    "segmentation": (
        SEGMENTATION,
        "seg/iou_road",
        {"type": "SegVisualizationHook", "draw": False, "interval": 1, "test_out_dir": "vis"},
        "SegLocalVisualizer",
    ),
    "change": (CHANGE, "cd/iou_changed", {"type": "CDVisualizationHook", "draw": False}, "CDLocalVisualizer"),
    "pretraining": (
        PRETRAINING,
        "single-label/f1-score",
        {"type": "mmpretrain.VisualizationHook"},
        "mmpretrain.UniversalVisualizer",
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 64 x 64, with a second date, labels, boxes; as scenes of two classes; and as shards."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    images, objects = [], []
    for name in ("A", "B", "label", "Airport", "Beach"):
        (folder / name).mkdir()
    for index in range(4):
        first, second = generator.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
        label = np.zeros((64, 64), np.uint8)
        label[16:40, 10:30] = 255
        for name, image in (("A", first), ("B", second), ("label", label), (("Airport", "Beach")[index % 2], first)):
            assert cv2.imwrite(str(folder / name / f"{index}.png"), image)
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": 64, "height": 64})
        box = {"bbox": [10, 16, 20, 24], "area": 480, "iscrowd": 0}
        objects.append({"id": index + 1, "image_id": index + 1, "category_id": 1, **box})
    (folder / "list.txt").write_text("".join(f"{('Airport', 'Beach')[index % 2]}/{index}.png\n" for index in range(4)))
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "ship"}]}
    (folder / "ships.json").write_text(json.dumps(content))
    objects[1]["category_id"] = 2
    content["categories"].append({"id": 2, "name": "zoo"})
    (folder / "regions.json").write_text(json.dumps(content))
    options = ["--annotations", str(folder / "regions.json"), "--source", str(folder / "A")]
    assert tool("prepare_data")(["shards", *options, "--out", str(folder / "shards")]) == 0
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_config_trains_validates_and_tests(task: str, data: Path, tmp_path: Path) -> None:
    body, best, hook, visualizer = TASKS[task]
    settings = {"SAVE_BEST": repr(best), "VISUALIZATION": repr(hook), "VISUALIZER": repr(visualizer)}
    text = SHARED + body
    for name, value in settings.items():
        text = text.replace(name, value)
    config = tmp_path / f"{task}.py"
    config.write_text(text.replace("DATA", str(data)))
    work = tmp_path / "work"
    tool("train")([str(config), "--work-dir", str(work)])
    (saved,) = work.glob("best_*.pth")
    state_dict = torch.load(saved, weights_only=False)["state_dict"]
    assert any(name.startswith("backbone.stages.0.") for name in state_dict)
    tool("test")([str(config), str(saved), "--work-dir", str(tmp_path / "test")])
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert best in metrics


def test_shards_are_split_between_workers_and_shuffled_in_training(data: Path) -> None:
    from mmengine.registry import DATASETS, DefaultScope
    from torch.utils.data import DataLoader

    def names(workers: int, **settings: Any) -> list[str]:
        config = {"type": "mmdet.PretrainFmowWebDataset", "shards_path_or_url": f"{data}/shards/{{0..1}}.tar"}
        with DefaultScope.overwrite_default_scope("mmdet"):
            dataset = DATASETS.build(config | {"pipeline": [], **settings})
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        assert len(loader) == 4
        return [sample["img_path"] for sample in loader]

    torch.manual_seed(1)
    ordered = names(0, test_mode=True)
    assert len(set(ordered)) == 4
    assert sorted(names(2, test_mode=True)) == sorted(ordered)
    orders = {tuple(names(0)) for _ in range(5)}
    assert len(orders) > 1
    assert {frozenset(order) for order in orders} == {frozenset(ordered)}
