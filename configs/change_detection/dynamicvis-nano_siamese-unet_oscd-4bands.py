_base_ = [
    "../_base_/models/siamese_unet_light.py",
    "../_base_/datasets/oscd_4bands.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

# Mean and standard deviation of the training places, values above 6000 taken as 6000.
model = dict(
    data_preprocessor=dict(
        mean=[1284.6, 1147.1, 1094.5, 1740.5] * 2, std=[255.9, 311.0, 483.5, 762.3] * 2, size=(192, 192)
    ),
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="nano",
        in_channels=4,
        keep_ratios=(1 / 8, None, None, None),
        img_size=192,
        noise=dict(start=0.1, end=1e-4),
    ),
    pre_neck=dict(in_channels=[32, 64, 128, 256]),
    test_cfg=dict(crop_size=(192, 192), stride=(96, 96)),
)
train_cfg = dict(max_epochs=40, val_interval=4)
