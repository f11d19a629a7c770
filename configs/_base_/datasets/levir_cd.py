# LEVIR-CD: buildings in 1024 x 1024 aerial pairs at 0.5 m, 445 / 64 / 128 for training, validation and test.
# As published: {train,val,test}/{A,B,label}/*.png, labels 0 and 255. Seen at twice its size.
data_root = "{{$DYNAMICVIS_DATA:data}}/levir-cd/"
crop_size = (1024, 1024)

train_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180),
    dict(type="RandomResize", scale=(2048, 2048), ratio_range=(0.2, 1.8), keep_ratio=True, interpolation="bicubic"),
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
    dict(type="Resize", scale=(2048, 2048), keep_ratio=True, interpolation="bicubic"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="PackSegInputs"),
]
# The pair and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(2048, 2048), keep_ratio=True, interpolation="bicubic")],
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
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="dynamicvis.ChangeFolder", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.ChangeFolder", data_root=data_root, split="val", test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.ChangeFolder", data_root=data_root, split="test", test_mode=True, pipeline=test_pipeline
    ),
)
# F1, IoU, precision and recall of what changed, over all pixels of the split.
val_evaluator = dict(type="dynamicvis.SegmentationMetric", prefix="change")
test_evaluator = val_evaluator

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Changed buildings between two dates of aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.5,
    image_size=1024,
    colors=("#000000", "#d55e00"),
    training_data="LEVIR-CD (Chen and Shi 2020)",
    license="academic use only, as the data set",
)
