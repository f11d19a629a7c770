# Objects with outlines, at 1024 x 1024 pixels.
_base_ = "objects.py"

train_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(1, 2, 3)),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    *_base_.flips,
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(1024, 1024), crop_type="absolute", allow_negative_crop=True),
    dict(type="Pad", size=(1024, 1024), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), by_mask=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(1, 2, 3)),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    _base_.pack_test,
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        _base_.source,
        ann_file="annotations/train.json",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(batch_size=4, num_workers=2, persistent_workers=True, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=4, num_workers=2, dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric=["bbox", "segm"])
test_evaluator = dict(metric=["bbox", "segm"])
