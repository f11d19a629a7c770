# Small enough for a processor: README.md has its figures.
_base_ = [
    "../_base_/models/region_classifier.py",
    "../_base_/datasets/mosaics.py",
    "../_base_/schedules/adamw_cosine_200e.py",
    "../_base_/runtime/default.py",
]

model = dict(
    backbone=dict(type="dynamicvis.DynamicVis", arch="nano", img_size=256, noise=dict(start=0.1, end=1e-4)),
    in_channels=[32, 64, 128, 256],
    num_classes=21,
    channels=64,
)
train_cfg = dict(max_epochs=12, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
default_hooks = dict(checkpoint=dict(save_best="regions/f1", rule="greater"))
