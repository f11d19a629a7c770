# Fixed length, averaged weights, last checkpoint: nothing is selected on a test split.
# `--cfg-options train_cfg.max_epochs=N` changes the length, the cosine included: its end is the end of training.
_base_ = "adamw_cosine_600e.py"

train_cfg = dict(max_epochs=24, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.999)), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
custom_hooks = [
    dict(type="dynamicvis.RouterNoiseHook"),
    dict(type="EMAHook", ema_type="mmdet.ExpMomentumEMA", momentum=0.005, gamma=200, update_buffers=True, priority=49),
]
