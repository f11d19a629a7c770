_base_ = [
    "../_base_/models/mask_rcnn_fpn.py",
    "../_base_/datasets/nwpu.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="base",
        img_size=1024,
        frozen_stages=1,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
    roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)),
)
train_cfg = dict(max_epochs=800, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
# Selected on the validation split; the test split is for tools/test.py alone. The paper selects on the test split and
# trains on all the rest: `--cfg-options train_dataloader.dataset.ann_file=annotations/trainval.json
# val_dataloader.dataset.ann_file=annotations/test.json val_evaluator.ann_file=data/nwpu/annotations/test.json`.
default_hooks = dict(checkpoint=dict(interval=10, save_best="coco/segm_mAP", rule="greater"))
