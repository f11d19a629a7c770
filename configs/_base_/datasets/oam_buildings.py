# Drone mosaics of OpenAerialMap with building outlines, resampled to 0.3 m; split by place. Made by
# `tools/prepare_data.py oam-buildings --source FOLDER --out data/oam-buildings`: 144 overlapping tiles of 256 x 256 to
# train, one scene to validate, two scenes of another country to test.
data_root = "{{$DYNAMICVIS_DATA:data}}/oam-buildings/"
metainfo = dict(classes=("background", "building"), palette=[(0, 0, 0), (230, 70, 60)])
crop_size = (256, 256)

train_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.75, 1.5), keep_ratio=True, interpolation="bicubic"),
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
    dict(type="dynamicvis.LoadMask", values=(0, 255)),
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
            [dict(type="dynamicvis.LoadMask", values=(0, 255))],
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
        type="dynamicvis.SegmentationFolder",
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="train/images", seg_map_path="train/masks"),
        pipeline=train_pipeline,
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
        data_prefix=dict(img_path="val/images", seg_map_path="val/masks"),
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
        data_prefix=dict(img_path="test/images", seg_map_path="test/masks"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

# F1, IoU, precision and recall of every class.
val_evaluator = dict(type="dynamicvis.SegmentationMetric")
test_evaluator = dict(type="dynamicvis.SegmentationMetric")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Buildings in RGB mosaics of drones",
    value_range=(0, 255),
    gsd=0.3,
    training_data="mosaics of OpenAerialMap (CC BY 4.0) with outlines of OpenStreetMap (ODbL)",
    license="CC BY 4.0",
)
