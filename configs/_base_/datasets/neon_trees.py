# NEON tree crowns: aerial RGB at 0.1 m, one class. By `dynamicvis prepare neon-trees --out data/neon-trees`.
# Training: conifers of Yellowstone (YELL) and mostly dead trees of Soaproot Saddle (SOAP). Validation: parts of the
# same images that training never sees. Test: pines of Ordway-Swisher, Florida (OSBS), another climate and season.
_base_ = "../pipelines/objects.py"

data_root = "data/neon-trees/"
metainfo = dict(classes=("tree",), palette=[(240, 228, 66)])

train_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1)),  # BGR
    dict(type="LoadAnnotations", with_bbox=True),
    # Hues stay near their own: green is what tells crowns from sand and rock at a site never seen.
    dict(type="YOLOXHSVRandomAug", hue_delta=6, saturation_delta=50, value_delta=50),
    dict(type="dynamicvis.RandomScale", ratio_range=(0.6, 1.6)),
    dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=True),
    dict(type="dynamicvis.RandomRotate90"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="dynamicvis.BackgroundJitter", prob=0.5, gain=0.2, shift=60.0),
    dict(type="dynamicvis.RadiometricJitter", gain=0.12, gamma=1.6, gray_prob=0.05, blur=1.2, noise=8.0),
    dict(type="Pad", size=(256, 256), pad_val=dict(img=(103.53, 116.28, 123.675))),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1)),
    dict(type="Resize", scale_factor=1.0, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    _base_.pack_test,
]

files = dict(data_root=data_root, metainfo=metainfo)
train_set = dict(_base_.source, filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline, **files)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    drop_last=True,
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(type="RepeatDataset", times=8, dataset=dict(train_set, ann_file="annotations/train_yell.json")),
            dict(type="RepeatDataset", times=8, dataset=dict(train_set, ann_file="annotations/train_soap.json")),
        ],
    ),
)
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(files, pipeline=test_pipeline))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(files, pipeline=test_pipeline))

precision = dict(
    type="dynamicvis.CocoMetric",
    metric="bbox",
    metric_items=["mAP_50"],
    iou_thrs=[0.5],
    proposal_nums=(100, 300, 300),
)
crowns = dict(type="dynamicvis.PrecisionRecallMetric", score_thr=0.3, iou_thr=0.4)
val_evaluator = [dict(precision, ann_file=data_root + "annotations/val.json"), crowns]
test_evaluator = [dict(precision, ann_file=data_root + "annotations/test.json"), crowns]
