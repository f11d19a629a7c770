# ForestNet, Landsat-8, 4 drivers of deforestation. Queries: the val split; database: the test split.
data_root = "{{$DYNAMICVIS_DATA:data}}/forestnet/"

test_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(1, 2, 3)),
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
                type="dynamicvis.ForestNet",
                data_root=data_root,
                data_prefix=dict(img_path=""),
                ann_file="val.csv",
                num_classes=4,
                role="query",
                test_mode=True,
                pipeline=test_pipeline,
            ),
            dict(
                type="dynamicvis.ForestNet",
                data_root=data_root,
                data_prefix=dict(img_path=""),
                ann_file="test.csv",
                num_classes=4,
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
    description="Embedding of Landsat-8 imagery in visible colours",
    value_range=(0, 255),
    gsd=15.0,
    tile=332,
    overlap=0,
    image_size=332,
    training_data="that of the checkpoint; tested on ForestNet",
    license="that of the checkpoint",
)
