# WHU building data set, aerial part: 512 x 512 RGB images at 0.3 m, 4736 / 1036 / 2416 for training, validation and
# test. As published: {train,val,test}/{image,label}/*.tif. Seen at twice its size.
data_root = "{{$DYNAMICVIS_DATA:data}}/whu-building/"
crop_size = (1024, 1024)

train_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="dynamicvis.LoadMask", values=(0, (1, 255))),
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.3, 1.7), keep_ratio=True, interpolation="bicubic"),
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
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True, interpolation="bicubic"),
    dict(type="dynamicvis.LoadMask", values=(0, (1, 255))),
    dict(type="PackSegInputs"),
]
# The image and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(1024, 1024), keep_ratio=True, interpolation="bicubic")],
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
            ],
            [dict(type="dynamicvis.LoadMask", values=(0, (1, 255)))],
            [dict(type="PackSegInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="dynamicvis.WHUBuilding", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.WHUBuilding", data_root=data_root, split="val", test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.WHUBuilding", data_root=data_root, split="test", test_mode=True, pipeline=test_pipeline
    ),
)

# F1, IoU, precision and recall of every class.
val_evaluator = dict(type="dynamicvis.SegmentationMetric")
test_evaluator = dict(type="dynamicvis.SegmentationMetric")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Buildings in aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.3,
    image_size=512,
    training_data="WHU building data set, aerial part (Ji et al. 2019)",
    license="research, as the data set",
)
