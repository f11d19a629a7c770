# mmdet's Faster R-CNN for COCO with another backbone. Nothing else changes.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["dynamicvis.mm"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="dynamicvis.DynamicVis", arch="nano"),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
