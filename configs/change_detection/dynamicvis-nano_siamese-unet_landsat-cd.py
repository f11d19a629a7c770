_base_ = [
    "../_base_/models/siamese_unet_light.py",
    "../_base_/datasets/landsat_cd.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# Mean and standard deviation of the training place.
model = dict(
    data_preprocessor=dict(
        mean=[100.1, 45.5, 47.8, 73.8, 80.8, 41.3] * 2, std=[10.2, 6.3, 11.2, 16.1, 20.1, 15.2] * 2
    ),
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
train_cfg = dict(max_epochs=40, val_interval=4)
