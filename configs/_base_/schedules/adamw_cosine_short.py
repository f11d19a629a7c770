# From scratch in a few hundred iterations: as adamw_cosine_600e.py, but with a warm-up of 30 iterations.
_base_ = "adamw_cosine_600e.py"

optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
