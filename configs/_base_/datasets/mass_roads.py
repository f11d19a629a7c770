# Windows of 500 x 500 pixels of Massachusetts Roads, split by scene. Made by
# `tools/prepare_data.py mass-roads --source FOLDER --out data/mass-roads`.
data_root = "{{$DYNAMICVIS_DATA:data}}/mass-roads/"
metainfo = dict(classes=("background", "road"), palette=[(0, 0, 0), (255, 200, 60)])
crop_size = (256, 256)

train_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="dynamicvis.LoadMask", values=(0, 1)),
    dict(type="RandomResize", scale=(500, 500), ratio_range=(0.75, 1.5), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(type="RandomRotate", prob=0.5, degree=180, pad_val=(123.675, 116.28, 103.53), seg_pad_val=255),
    dict(type="PhotoMetricDistortion"),
    dict(type="Pad", size=crop_size, pad_val=dict(img=(123.675, 116.28, 103.53), seg=255)),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="dynamicvis.LoadMask", values=(0, 1)),
    dict(type="PackSegInputs"),
]
# The image and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
            ],
            [dict(type="dynamicvis.LoadMask", values=(0, 1))],
            [dict(type="PackSegInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="RepeatDataset",
        times=3,
        dataset=dict(
            type="dynamicvis.SegmentationFolder",
            data_root=data_root,
            metainfo=metainfo,
            ann_file="train.txt",
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.SegmentationFolder",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="val.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.SegmentationFolder",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="test.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

# F1, IoU, precision and recall of every class.
val_evaluator = dict(type="dynamicvis.SegmentationMetric")
test_evaluator = dict(type="dynamicvis.SegmentationMetric")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Roads in aerial RGB imagery",
    value_range=(0, 255),
    gsd=1.0,
    training_data="windows of Massachusetts Roads (Mnih 2013)",
    license="research, as the data set, which states no licence",
)
