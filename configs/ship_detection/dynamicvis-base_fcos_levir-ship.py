_base_ = [
    "../_base_/models/fcos_fpn.py",
    "../_base_/datasets/levir_ship.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="base",
        img_size=1024,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# Selected on the validation split; the test split is for tools/test.py alone. The paper selects on the test split:
# `--cfg-options val_dataloader.dataset.ann_file=annotations/test.json
# val_evaluator.ann_file=data/levir-ship/annotations/test.json`.
default_hooks = dict(checkpoint=dict(interval=5, save_best="coco/bbox_mAP", rule="greater"))
