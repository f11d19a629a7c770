_base_ = [
    "../_base_/models/scene_classifier.py",
    "../_base_/datasets/ucmerced.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmpretrain"

# A pretrained backbone comes in by
# `--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE`.
model = dict(
    data_preprocessor=dict(num_classes=21),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="base",
        img_size=512,
        frozen_stages=1,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=768),
    head=dict(in_channels=768, num_classes=21),
)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
default_hooks = dict(checkpoint=dict(interval=5, save_best="single-label/f1-score", rule="greater"))
