# Massachusetts Roads: 1500 x 1500 RGB images at 1 m, 1108 / 14 / 49 for training, validation and test. As published:
# {train,valid,test}/{sat,map}, or its training images in tiles, made by `dynamicvis prepare massachusetts-roads`.
# Seen at twice its size.
_base_ = "../pipelines/segmentation.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/massachusetts-roads/"
mask = dict(type="dynamicvis.LoadMask", threshold=128)
resize = dict(type="Resize", scale_factor=2.0, keep_ratio=True, interpolation="bicubic")
train_pipeline = [
    _base_.load,
    mask,
    resize,
    dict(type="RandomCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
    *_base_.augmentation,
    dict(_base_.pad, size=(1024, 1024)),
    _base_.pack,
]
test_pipeline = [_base_.load, resize, mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[[resize], _base_.views, [mask], [_base_.pack]])]

source = dict(type="dynamicvis.MassachusettsRoads", data_root=data_root)
train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True, dataset=dict(source, split="train", pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=2, persistent_workers=True, dataset=dict(source, split="val", pipeline=test_pipeline))
test_dataloader = dict(num_workers=2, dataset=dict(source, split="test", pipeline=test_pipeline))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Roads in aerial RGB imagery",
    value_range=(0, 255),
    gsd=1.0,
    training_data="Massachusetts Roads (Mnih 2013)",
    license="research, as the data set, which states no licence",
)
