# Windows of 500 x 500 pixels of Massachusetts Roads, split by scene. Made by
# `dynamicvis prepare massachusetts-roads-windows --source FOLDER --out data/massachusetts-roads-windows`.
_base_ = "../pipelines/segmentation.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/massachusetts-roads-windows/"
metainfo = dict(classes=("background", "road"), palette=[(0, 0, 0), (255, 200, 60)])
mask = dict(_base_.mask, values=(0, 1))
train_pipeline = [
    _base_.load,
    mask,
    dict(type="RandomResize", scale=(500, 500), ratio_range=(0.75, 1.5), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(256, 256), cat_max_ratio=0.75),
    *_base_.augmentation,
    dict(_base_.pad, size=(256, 256)),
    _base_.pack,
]
test_pipeline = [_base_.load, mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[_base_.views, [mask], [_base_.pack]])]

source = dict(type="dynamicvis.SegmentationFolder", data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    dataset=dict(type="RepeatDataset", times=3, dataset=dict(source, ann_file="train.txt", pipeline=train_pipeline)),
)
val_dataloader = dict(num_workers=0, dataset=dict(source, ann_file="val.txt", pipeline=test_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(source, ann_file="test.txt", pipeline=test_pipeline))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Roads in aerial RGB imagery",
    value_range=(0, 255),
    gsd=1.0,
    training_data="windows of Massachusetts Roads (Mnih 2013)",
    license="research, as the data set, which states no licence",
)
