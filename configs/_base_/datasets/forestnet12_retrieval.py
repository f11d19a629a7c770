# ForestNet, Landsat-8, 12 drivers of deforestation. Queries: the val split; database: the test split.
_base_ = "../pipelines/features.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/forestnet/"
test_pipeline = [dict(type="dynamicvis.LoadRaster", bands=(1, 2, 3)), *_base_.test_pipeline[1:]]
source = dict(
    type="dynamicvis.ForestNet",
    data_root=data_root,
    data_prefix=dict(img_path=""),
    num_classes=12,
    test_mode=True,
    pipeline=test_pipeline,
)
query = dict(source, ann_file="val.csv", role="query")
database = dict(source, ann_file="test.csv", role="database")
test_dataloader = dict(dataset=dict(datasets=[query, database]))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of Landsat-8 imagery in visible colours",
    value_range=(0, 255),
    gsd=15.0,
    tile=332,
    image_size=332,
    training_data="that of the checkpoint; tested on ForestNet",
)
