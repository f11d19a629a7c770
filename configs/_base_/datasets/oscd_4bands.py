# OSCD in four bands of 10 m (B02, B03, B04, B08; reflectance x 10000): seven places, two for the test, the lower
# quarter of the others for validation. `dynamicvis prepare oscd --source FOLDER --out data/oscd-4bands
# --test nantes rennes --tile 192 --stride 96 --match-dates` makes overlapping tiles of the upper parts. The second date
# is brought to the first, so that seasons differ less. A place in FOLDER has t1.tif, t2.tif and cm.png; with the
# archives of OSCD add --bands B02 B03 B04 B08.
_base_ = "../pipelines/change.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/oscd-4bands/"
train_pipeline = [
    _base_.load,
    _base_.mask,
    _base_.rotate,
    dict(type="RandomResize", scale=(192, 192), ratio_range=(0.8, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(64, 64), cat_max_ratio=0.95),
    *_base_.flips,
    # Values vary by a fifth of their mean only, so 3 % is much.
    dict(_base_.band_distortion, brightness_delta=20, contrast_range=(0.97, 1.03), value_range=(0, 10000)),
    _base_.pack,
]
test_pipeline = [_base_.load, _base_.mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[_base_.views, [_base_.mask], [_base_.pack]])]

train_dataloader = dict(
    batch_size=16,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
tested = dict(data_root=data_root, pipeline=test_pipeline)
val_dataloader = dict(num_workers=0, dataset=tested)
test_dataloader = dict(num_workers=0, dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Urban change between two dates of Sentinel-2, four bands of 10 m",
    bands=("blue", "green", "red", "nir"),
    value_range=(0, 10000),
    gsd=10.0,
    training_data="OSCD (Daudt et al. 2018), parts of five places; the second date brought to the first",
    license="CC BY-NC-SA 4.0, as the labels",
)
