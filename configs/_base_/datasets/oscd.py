# OSCD: urban change in pairs of Sentinel-2 at 10 m, RGB previews; 24 places, 14 of them for training, the lower quarter
# of each of those for validation. `python tools/prepare_data.py oscd --source FOLDER --out data/oscd` makes 256 x 256
# tiles with 128 pixels of overlap for training; validation and test see images as they are. All at twice their size.
_base_ = "../pipelines/change.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/oscd/"
resize = dict(type="Resize", scale_factor=2.0, keep_ratio=True, interpolation="bicubic")
train_pipeline = [
    _base_.load,
    _base_.mask,
    _base_.rotate,
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.3, 1.7), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    *_base_.flips,
    _base_.distortion,
    _base_.pack,
]
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
tta_pipeline = [
    _base_.load,
    dict(type="TestTimeAug", transforms=[[resize], _base_.views, [_base_.mask], [_base_.pack]]),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
tested = dict(data_root=data_root, pipeline=test_pipeline)
val_dataloader = dict(num_workers=4, persistent_workers=True, dataset=tested)
test_dataloader = dict(num_workers=4, dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Urban change between two dates of Sentinel-2, previews of red, green, blue",
    gsd=10.0,
    training_data="OSCD (Daudt et al. 2018)",
    license="CC BY-NC-SA 4.0, as the labels",
)
