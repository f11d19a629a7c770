# UC Merced. Queries: the images held out from training; database: the test images. Lists as for datasets/ucmerced.py.
_base_ = "../pipelines/features.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/ucmerced/"
source = dict(
    type="dynamicvis.UCMerced",
    data_root=data_root,
    data_prefix=dict(img_path="UCMerced_LandUse/Images"),
    test_mode=True,
    pipeline=_base_.test_pipeline,
)
query = dict(source, ann_file="splits/val.txt", role="query")
database = dict(source, ann_file="splits/test.txt", role="database")
test_dataloader = dict(dataset=dict(datasets=[query, database]))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.3,
    tile=256,
    image_size=256,
    training_data="that of the checkpoint; tested on UC Merced",
)
