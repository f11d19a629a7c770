# From scratch on one core: light neck and heads, and token selection at stride 4 alone. A gate multiplies by about
# 1 / N, and blocks behind gates learn next to nothing at first.
_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/mass_roads.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        keep_ratios=(1 / 8, None, None, None),
        img_size=256,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[32, 64, 128, 256]),
    # Roads are 4 % of the pixels: without weights nothing is a road for many epochs.
    decode_head=dict(loss_decode=dict(class_weight=[1.0, 6.0])),
    auxiliary_head=dict(loss_decode=dict(class_weight=[1.0, 6.0])),
)
train_cfg = dict(max_epochs=12, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best="seg/IoU_road", rule="greater"))
