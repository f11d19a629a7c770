# From scratch on one core: light neck, decoder and head, and token selection at stride 4 alone. A gate multiplies by
# about 1 / N, and blocks behind gates learn next to nothing at first.
_base_ = [
    "../_base_/models/siamese_unet_light.py",
    "../_base_/datasets/landsat_cd.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# Mean and standard deviation of the training place.
model = dict(
    data_preprocessor=dict(mean=[100.1, 45.5, 47.8, 73.8, 80.8, 41.3] * 2, std=[10.2, 6.3, 11.2, 16.1, 20.1, 15.2] * 2),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        in_channels=6,
        keep_ratios=(1 / 8, None, None, None),
        img_size=128,
        noise=dict(start=0.1, end=1e-4),
    ),
    pre_neck=dict(in_channels=[32, 64, 128, 256]),
)
train_cfg = dict(max_epochs=30, val_interval=3)
default_hooks = dict(logger=dict(interval=4), checkpoint=dict(save_best="change/IoU_changed", rule="greater"))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
