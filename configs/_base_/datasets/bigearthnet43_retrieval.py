# BigEarthNet v1, Sentinel-2, 43 classes, several a patch. Queries: the val split; database: the test split.
data_root = "{{$DYNAMICVIS_DATA:data}}/bigearthnet/"

test_pipeline = [
    # Digital numbers are reflectance times 10,000: they are stretched to 0..255, which mean and std are for.
    dict(type="dynamicvis.LoadBigEarthNetPatch", bands=("B04", "B03", "B02")),
    dict(type="dynamicvis.ReflectanceToByte", white=2000.0),
    dict(type="Resize", scale=(512, 512), interpolation="bilinear"),
    dict(type="PackInputs", meta_keys=("img_path", "role")),
]
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                type="dynamicvis.BigEarthNet",
                data_root=data_root,
                data_prefix=dict(img_path="BigEarthNet-v1.0"),
                ann_file="bigearthnet-val.csv",
                num_classes=43,
                role="query",
                test_mode=True,
                pipeline=test_pipeline,
            ),
            dict(
                type="dynamicvis.BigEarthNet",
                data_root=data_root,
                data_prefix=dict(img_path="BigEarthNet-v1.0"),
                ann_file="bigearthnet-test.csv",
                num_classes=43,
                role="database",
                test_mode=True,
                pipeline=test_pipeline,
            ),
        ],
    ),
)
test_evaluator = dict(type="dynamicvis.RetrievalMetric", k=20, codes=("float", "binary", 64))
test_cfg = dict(type="TestLoop")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of Sentinel-2 imagery, red, green, blue",
    bands=("red", "green", "blue"),
    gsd=10.0,
    tile=120,
    overlap=0,
    image_size=120,
    training_data="that of the checkpoint; tested on BigEarthNet",
    license="that of the checkpoint",
)
