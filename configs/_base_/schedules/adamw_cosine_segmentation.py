# Fine-tuning for segmentation and change detection: as adamw_cosine_600e.py, to a thousandth of the learning rate.
_base_ = "adamw_cosine_600e.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=5),
]
