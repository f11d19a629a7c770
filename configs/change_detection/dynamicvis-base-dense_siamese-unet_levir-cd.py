# Without token selection: all tokens are kept, at half the size.
_base_ = "dynamicvis-base_siamese-unet_levir-cd.py"

crop_size = (512, 512)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=512, keep_ratios=(1.0, 1.0, 1.0, 1.0), global_tokens=False, residual="identity"),
    test_cfg=dict(crop_size=crop_size, stride=(256, 256)),
)
train_pipeline = [
    *_base_.loading,
    dict(_base_.resize, type="RandomResize", scale=(1024, 1024), ratio_range=(0.2, 1.8)),
    dict(_base_.crop, crop_size=crop_size),
    *_base_.augmentation,
]
resize = dict(_base_.resize, scale=(1024, 1024))
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
