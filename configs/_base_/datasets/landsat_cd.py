# Landsat change (Wu et al. 2014): 6 bands of 30 m, 8-bit digital numbers, a few per cent of the pixels known to have
# changed or not. `python tools/prepare_data.py landsat-cd --source FOLDER --out data/landsat-cd`: tiles of the upper
# part of Nanjing for training, its lower part for validation, Taizhou, another scene, for the test.
data_root = "{{$DYNAMICVIS_DATA:data}}/landsat-cd/"

train_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="dynamicvis.LoadMask", values=(0, 255), ignore=(128,)),
    dict(type="dynamicvis.RandomRotate", prob=0.5, degree=180),
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128), cat_max_ratio=0.9),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    # Saturation and hue are for red, green and blue.
    dict(
        type="dynamicvis.PhotometricDistortion",
        brightness_delta=10,
        contrast_range=(0.8, 1.2),
        saturation_range=None,
        hue_delta=None,
        value_range=(0, 255),
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(type="Resize", scale_factor=2.0, keep_ratio=True),
    dict(type="dynamicvis.LoadMask", values=(0, 255), ignore=(128,)),
    dict(type="PackSegInputs"),
]
# The pair and its two flips.
tta_pipeline = [
    dict(type="dynamicvis.LoadRasterPair"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=2.0, keep_ratio=True)],
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
            ],
            [dict(type="dynamicvis.LoadMask", values=(0, 255), ignore=(128,))],
            [dict(type="PackSegInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=8,
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
    description="Change between two dates of Landsat, six bands",
    bands=("blue", "green", "red", "nir", "swir1", "swir2"),
    value_range=(0, 255),
    gsd=30.0,
    colors=("#000000", "#d55e00"),
    training_data="Landsat pairs of Nanjing (Wu et al. 2014)",
    license="MIT, as the data set; citation asked",
)
