# OSCD: urban change in pairs of Sentinel-2 at 10 m, RGB previews; 24 places, 14 of them for training, the lower quarter
# of each of those for validation. `dynamicvis prepare oscd --source FOLDER --out data/oscd` makes 256 x 256
# tiles with 128 pixels of overlap for training; validation and test see images as they are. All at twice their size.
_base_ = "../pipelines/change_rgb.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/oscd/"
resize = dict(_base_.resize, scale_factor=2.0)
train_pipeline = [
    *_base_.loading,
    dict(_base_.resize, type="RandomResize", scale=(512, 512), ratio_range=(0.3, 1.7)),
    dict(_base_.crop, crop_size=(512, 512)),
    *_base_.augmentation,
]
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
tta_pipeline = [
    _base_.load,
    dict(type="TestTimeAug", transforms=[[resize], _base_.views, [_base_.mask], [_base_.pack]]),
]

tested = dict(data_root=data_root, pipeline=test_pipeline)
train_dataloader = dict(batch_size=4, dataset=dict(tested, pipeline=train_pipeline))
val_dataloader = dict(dataset=tested)
test_dataloader = dict(dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Urban change between two dates of Sentinel-2, previews of red, green, blue",
    gsd=10.0,
    training_data="OSCD (Daudt et al. 2018)",
    license="CC BY-NC-SA 4.0, as the labels",
)
