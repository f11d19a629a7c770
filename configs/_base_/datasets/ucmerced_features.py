# UC Merced for classification by frozen features: the training part is the database, the test part the queries. Lists
# as for datasets/ucmerced.py.
data_root = "{{$DYNAMICVIS_DATA:data}}/ucmerced/"

test_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
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
                type="dynamicvis.UCMerced",
                data_root=data_root,
                data_prefix=dict(img_path="UCMerced_LandUse/Images"),
                ann_file="splits/trainval.txt",
                role="database",
                test_mode=True,
                pipeline=test_pipeline,
            ),
            dict(
                type="dynamicvis.UCMerced",
                data_root=data_root,
                data_prefix=dict(img_path="UCMerced_LandUse/Images"),
                ann_file="splits/test.txt",
                role="query",
                test_mode=True,
                pipeline=test_pipeline,
            ),
        ],
    ),
)
test_evaluator = dict(type="dynamicvis.FrozenFeatureMetric", neighbors=20)
test_cfg = dict(type="TestLoop")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.3,
    tile=256,
    overlap=0,
    image_size=256,
    training_data="that of the checkpoint; tested on UC Merced",
    license="that of the checkpoint",
)
