# BigEarthNet v1, Sentinel-2, 43 classes, several a patch. Queries: the val split; database: the test split.
_base_ = "../pipelines/features.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/bigearthnet/"
# Digital numbers are reflectance times 10,000: they are stretched to 0..255, which mean and std are for.
test_pipeline = [
    dict(type="dynamicvis.LoadBigEarthNetPatch", bands=("B04", "B03", "B02")),
    dict(type="dynamicvis.ReflectanceToByte", white=2000.0),
    *_base_.test_pipeline[1:],
]
source = dict(
    type="dynamicvis.BigEarthNet",
    data_root=data_root,
    data_prefix=dict(img_path="BigEarthNet-v1.0"),
    num_classes=43,
    test_mode=True,
    pipeline=test_pipeline,
)
query = dict(source, ann_file="bigearthnet-val.csv", role="query")
database = dict(source, ann_file="bigearthnet-test.csv", role="database")
test_dataloader = dict(dataset=dict(datasets=[query, database]))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of Sentinel-2 imagery, red, green, blue",
    bands=("red", "green", "blue"),
    gsd=10.0,
    tile=120,
    image_size=120,
    training_data="that of the checkpoint; tested on BigEarthNet",
)
