# OSCD: urban change in pairs of Sentinel-2 at 10 m, RGB previews; 24 places, 14 of them for training, the lower quarter
# of each of those for validation. `python tools/prepare_data.py oscd --source FOLDER --out data/oscd` makes 256 x 256
# tiles with 128 pixels of overlap for training; validation and test see images as they are. All at twice their size.
data_root = "{{$DYNAMICVIS_DATA:data}}/oscd/"
crop_size = (512, 512)

train_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180),
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.3, 1.7), keep_ratio=True, interpolation="bicubic"),
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
    dict(type="Resize", scale_factor=2.0, keep_ratio=True, interpolation="bicubic"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="PackSegInputs"),
]
# The pair and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=2.0, keep_ratio=True, interpolation="bicubic")],
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
    description="Urban change between two dates of Sentinel-2, previews of red, green, blue",
    value_range=(0, 255),
    gsd=10.0,
    colors=("#000000", "#d55e00"),
    training_data="OSCD (Daudt et al. 2018)",
    license="CC BY-NC-SA 4.0, as the labels",
)
