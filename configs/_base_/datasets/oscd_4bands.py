# OSCD in four bands of 10 m (B02, B03, B04, B08; reflectance x 10000): seven places, two for the test, the lower
# quarter of the others for validation. `python tools/prepare_data.py oscd --source FOLDER --out data/oscd-4bands
# --test nantes rennes --tile 192 --stride 96 --match-dates` makes overlapping tiles of the upper parts. The second date
# is brought to the first, so that seasons differ less. A place in FOLDER has t1.tif, t2.tif and cm.png; with the
# archives of OSCD add --bands B02 B03 B04 B08.
data_root = "{{$DYNAMICVIS_DATA:data}}/oscd-4bands/"

train_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180),
    dict(type="RandomResize", scale=(192, 192), ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), cat_max_ratio=0.95),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    # Saturation and hue are for red, green and blue. Values vary by a fifth of their mean only, so 3 % is much.
    dict(
        type="dynamicvis.PhotometricDistortion",
        brightness_delta=20,
        contrast_range=(0.97, 1.03),
        saturation_range=None,
        hue_delta=None,
        value_range=(0, 10000),
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="PackSegInputs"),
]
# The pair and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(
        type="TestTimeAug",
        transforms=[
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
    batch_size=16,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="dynamicvis.ChangeFolder", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.ChangeFolder", data_root=data_root, split="val", test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="dynamicvis.ChangeFolder", data_root=data_root, split="test", test_mode=True, pipeline=test_pipeline
    ),
)
# F1, IoU, precision and recall of what changed, over all pixels that are known.
val_evaluator = dict(type="dynamicvis.SegmentationMetric", prefix="change")
test_evaluator = val_evaluator

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Urban change between two dates of Sentinel-2, four bands of 10 m",
    bands=("blue", "green", "red", "nir"),
    value_range=(0, 10000),
    gsd=10.0,
    colors=("#000000", "#d55e00"),
    training_data="OSCD (Daudt et al. 2018), parts of five places; the second date brought to the first",
    license="CC BY-NC-SA 4.0, as the labels",
)
