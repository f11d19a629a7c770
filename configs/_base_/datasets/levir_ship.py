# LEVIR-Ship: tiny ships in 512 x 512 optical images, 2320 / 788 / 788 for training, validation and test, one class.
# Made by `dynamicvis prepare levir-ship --source FOLDER --out data/levir-ship`.
_base_ = "../pipelines/objects.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/levir-ship/"
metainfo = dict(classes=("ship",), palette=[(220, 20, 60)])

load = dict(type="dynamicvis.LoadRaster", bands=(1, 2, 3))
boxes = dict(type="LoadAnnotations", with_bbox=True)
resize = dict(type="Resize", scale=(1024, 1024), keep_ratio=True, interpolation="bicubic")
train_pipeline = [
    load,
    boxes,
    *_base_.flips,
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.5, 1.8), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(1024, 1024), crop_type="absolute", allow_negative_crop=True),
    dict(type="Pad", size=(1024, 1024), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="PackDetInputs"),
]
test_pipeline = [load, resize, boxes, _base_.pack_test]
pack_view = dict(_base_.pack_test, meta_keys=(*_base_.pack_test.meta_keys, "flip", "flip_direction"))
tta_pipeline = [load, dict(type="TestTimeAug", transforms=[[resize], _base_.views, [boxes], [pack_view]])]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        _base_.source,
        data_root=data_root,
        ann_file="annotations/train.json",
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=train_pipeline,
    ),
)
tested = dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline)
val_dataloader = dict(batch_size=4, num_workers=2, persistent_workers=True, dataset=tested)
test_dataloader = dict(batch_size=4, num_workers=2, dataset=tested)

# One threshold only, so bbox_mAP is AP50, and bbox_mAP_s and bbox_mAP_m are AP50 by size.
val_evaluator = dict(ann_file=data_root + "annotations/val.json", metric="bbox", iou_thrs=[0.5])
test_evaluator = dict(ann_file=data_root + "annotations/test.json", metric="bbox", iou_thrs=[0.5])

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Tiny ships in RGB imagery of GaoFen",
    value_range=(0, 255),
    gsd=16.0,
    tile=512,
    overlap=64,
    image_size=512,
    score_threshold=0.3,
    training_data="LEVIR-Ship (Chen et al. 2022)",
    license="CC BY 4.0, as the annotations; images under the terms of CRESDA",
)
