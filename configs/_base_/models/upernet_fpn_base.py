# UPerNet on the base backbone, as in the paper.
_base_ = "upernet_fpn.py"

# A pretrained backbone comes in by
# `--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE`, and its pyramid by
# `model.neck.init_cfg.type=Pretrained model.neck.init_cfg.checkpoint=FILE model.neck.init_cfg.prefix=pre_neck.`.
model = dict(
    backbone=dict(type="dynamicvis.DynamicVis", arch="base", img_size=1024, noise=dict(start=0.1, end=1e-4)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
