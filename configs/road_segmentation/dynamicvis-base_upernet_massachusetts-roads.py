_base_ = [
    "../_base_/models/upernet_fpn.py",
    "../_base_/datasets/massachusetts_roads.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# A pretrained backbone comes in by
# `--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE`, and its pyramid by
# `model.neck.init_cfg.type=Pretrained model.neck.init_cfg.checkpoint=FILE model.neck.init_cfg.prefix=pre_neck.`.
model = dict(
    backbone=dict(type="dynamicvis.DynamicVis", arch="base", img_size=1024, noise=dict(start=0.1, end=1e-4)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
train_cfg = dict(max_epochs=1200, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
# To a thousandth of the learning rate.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=5),
]
# The best epoch is that of the validation split. The paper picks it on the test split, as
# `--cfg-options val_dataloader.dataset.split=test` does.
default_hooks = dict(checkpoint=dict(interval=10, save_best="seg/IoU_road", rule="greater"))
