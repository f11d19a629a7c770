# SSDD: ships in 1160 SAR images of about 500 x 350 pixels, with outlines, one class.
# Made by `dynamicvis prepare ssdd --source FOLDER --out data/ssdd`.
_base_ = "../pipelines/instances.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/ssdd/"
metainfo = dict(classes=("ship",), palette=[(220, 20, 60)])

# Grey images, some saved with three equal bands: the model sees three in any case.
load = dict(type="dynamicvis.LoadRaster", bands=(1, 1, 1))
train_pipeline = [load, *_base_.train_pipeline[1:]]
test_pipeline = [load, *_base_.test_pipeline[1:]]

files = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=dict(files, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(files, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(files, pipeline=test_pipeline))
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = dict(ann_file=data_root + "annotations/test.json")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Ships with outlines in SAR imagery",
    bands=("amplitude", "amplitude", "amplitude"),
    value_range=(0, 255),
    gsd=3.0,
    tile=512,
    overlap=128,
    scale=2.0,
    score_threshold=0.3,
    training_data="SSDD (Zhang et al. 2021): RadarSat-2, TerraSAR-X, Sentinel-1, 1 to 15 m",
    license="research, as the data set, which states no licence",
)
