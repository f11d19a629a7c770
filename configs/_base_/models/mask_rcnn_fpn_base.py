# Mask R-CNN on the base backbone, as in the paper. The leaf config adds the number of classes.
_base_ = "mask_rcnn_fpn.py"

model = dict(
    backbone=dict(
        type="dynamicvis.DynamicVis",
        arch="base",
        img_size=1024,
        frozen_stages=1,
        noise=dict(start=0.1, end=1e-4),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
