# The small run of README.md: from random weights, at 96 x 96 pixels, for a CPU.
_base_ = "dynamicvis-nano_linear_ucmerced.py"

train_pipeline = [
    _base_.load,
    dict(type="RandomResizedCrop", scale=96, crop_ratio_range=(0.4, 1.0), interpolation="bicubic"),
    dict(type="dynamicvis.RandomRotate90"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="dynamicvis.RadiometricJitter", gain=0.15, gamma=1.4, gray_prob=0.1, blur=0.5, noise=4.0),
    dict(type="PackInputs"),
]
resize = dict(_base_.resize, scale=(96, 96))
test_pipeline = [_base_.load, resize, dict(type="PackInputs")]
tta_pipeline = [_base_.load, resize, *_base_.tta_pipeline[2:]]

# Gates scale what they pass by about one over the number of tokens, so that a gated block starts nearly dead: too few
# iterations here to wake it. Selection stays where it saves most, at stride 4; the other stages are dense.
model = dict(
    backbone=dict(img_size=96, frozen_stages=0, keep_ratios=(1 / 8, None, None, None)),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2)]),
)
train_dataloader = dict(batch_size=32, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))

train_cfg = dict(max_epochs=20, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=2, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=1))
