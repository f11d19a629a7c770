# WHU-CD: buildings in 256 x 256 aerial pairs at 0.2 m, 5947 / 744 / 744 for training, validation and test.
# As tiles: {A,B,label}/*.png, labels 0 and 255, names in list/{train,val,test}.txt. Seen at twice its size.
data_root = "{{$DYNAMICVIS_DATA:data}}/whu-cd/"
crop_size = (512, 512)

train_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180),
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.2, 1.8), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(
        type="dynamicvis.PhotometricDistortion",
        brightness_delta=10,
        contrast_range=(0.8, 1.2),
        saturation_range=(0.8, 1.2),
        hue_delta=10,
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="Resize", scale=(512, 512), keep_ratio=True, interpolation="bicubic"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="PackSegInputs"),
]
# The pair and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(512, 512), keep_ratio=True, interpolation="bicubic")],
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
            ],
            [dict(type="dynamicvis.LoadMask", values=(0, 255))],
            [dict(type="PackSegInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="dynamicvis.WHUCD", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="dynamicvis.WHUCD", data_root=data_root, split="val", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="dynamicvis.WHUCD", data_root=data_root, split="test", test_mode=True, pipeline=test_pipeline),
)
# F1, IoU, precision and recall of what changed, over all pixels of the split.
val_evaluator = dict(type="dynamicvis.SegmentationMetric", prefix="change")
test_evaluator = val_evaluator

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Changed buildings between two dates of aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.2,
    image_size=256,
    colors=("#000000", "#d55e00"),
    training_data="WHU-CD (Ji et al. 2019)",
    license="research, as the data set; citation asked",
)
