_base_ = [
    "../_base_/models/siamese_unet.py",
    "../_base_/schedules/adamw_cosine_segmentation.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# A pretrained backbone comes in by
# `--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE`, and its pyramid by
# `model.pre_neck.init_cfg.type=Pretrained model.pre_neck.init_cfg.checkpoint=FILE
# model.pre_neck.init_cfg.prefix=pre_neck.`.
model = dict(
    backbone=dict(type="dynamicvis.DynamicVis", arch="base", img_size=1024, noise=dict(start=0.1, end=1e-4)),
    pre_neck=dict(in_channels=[96, 192, 384, 768]),
)
train_cfg = dict(val_interval=10)
# The best epoch is that of the validation split. The paper picks it on the test split, as
# `--cfg-options val_dataloader.dataset.split=test` does.
default_hooks = dict(checkpoint=dict(interval=10, save_best="change/IoU_changed", rule="greater"))
