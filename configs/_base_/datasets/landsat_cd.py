# Landsat change (Wu et al. 2014): 6 bands of 30 m, 8-bit digital numbers, a few per cent of the pixels known to have
# changed or not. `dynamicvis prepare landsat-cd --source FOLDER --out data/landsat-cd`: tiles of the upper
# part of Nanjing for training, its lower part for validation, Taizhou, another scene, for the test.
_base_ = "../pipelines/change.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/landsat-cd/"
mask = dict(_base_.mask, ignore=(128,))
resize = dict(type="Resize", scale_factor=2.0, keep_ratio=True)
train_pipeline = [
    _base_.load,
    mask,
    _base_.rotate,
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128), cat_max_ratio=0.9),
    *_base_.flips,
    dict(_base_.band_distortion, value_range=(0, 255)),
    _base_.pack,
]
test_pipeline = [_base_.load, resize, mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[[resize], _base_.views, [mask], [_base_.pack]])]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
tested = dict(data_root=data_root, pipeline=test_pipeline)
val_dataloader = dict(num_workers=0, dataset=tested)
test_dataloader = dict(num_workers=0, dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Change between two dates of Landsat, six bands",
    bands=("blue", "green", "red", "nir", "swir1", "swir2"),
    gsd=30.0,
    training_data="Landsat pairs of Nanjing (Wu et al. 2014)",
    license="MIT, as the data set; citation asked",
)
