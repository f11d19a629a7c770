# SSDD: ships in 1160 SAR images of about 500 x 350 pixels, with outlines, one class.
# Made by `python tools/prepare_data.py ssdd --source FOLDER --out data/ssdd`.
data_root = "{{$DYNAMICVIS_DATA:data}}/ssdd/"
metainfo = dict(classes=("ship",), palette=[(220, 20, 60)])

train_pipeline = [
    # Grey images, some saved with three equal bands: the model sees three in any case.
    dict(type="dynamicvis.LoadRaster", bands=(1, 1, 1)),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(1024, 1024), crop_type="absolute", allow_negative_crop=True),
    dict(type="Pad", size=(1024, 1024), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), by_mask=True),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(1, 1, 1)),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=None,
    dataset=dict(
        type="dynamicvis.CocoDataset",
        data_root=data_root,
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.CocoDataset",
        data_root=data_root,
        ann_file="annotations/val.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.CocoDataset",
        data_root=data_root,
        ann_file="annotations/test.json",
        data_prefix=dict(img="images/"),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(type="dynamicvis.CocoMetric", ann_file=data_root + "annotations/val.json", metric=["bbox", "segm"])
test_evaluator = dict(
    type="dynamicvis.CocoMetric", ann_file=data_root + "annotations/test.json", metric=["bbox", "segm"]
)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Ships with outlines in SAR imagery",
    bands=("amplitude", "amplitude", "amplitude"),
    value_range=(0, 255),
    gsd=3.0,
    tile=512,
    overlap=128,
    scale=2.0,
    score_threshold=0.3,
    training_data="SSDD (Zhang et al. 2021): RadarSat-2, TerraSAR-X, Sentinel-1, 1 to 15 m",
    license="research, as the data set, which states no licence",
)
