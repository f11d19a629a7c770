# All 13 bands of Sentinel-2, from the archives of OSCD as they unpack into data/oscd, without preparation.
_base_ = "dynamicvis-nano_siamese-unet_oscd.py"

bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
val_places = ["saclay_e"]
# Reflectance x 10000: a scale for all bands, as long as nobody has measured the statistics of each.
model = dict(
    data_preprocessor=dict(mean=[1500.0] * 26, std=[1000.0] * 26),
    backbone=dict(in_channels=13),
)
train_pipeline = [
    *_base_.loading,
    dict(type="RandomResize", scale=(1200, 1200), ratio_range=(0.3, 1.7), keep_ratio=True, interpolation="bicubic"),
    dict(_base_.crop, crop_size=(512, 512)),
    *_base_.flips,
    dict(_base_.band_distortion, brightness_delta=100, value_range=(0, 28000)),
    _base_.pack,
]
common = dict(type="dynamicvis.OSCD", data_root=_base_.data_root, bands=bands)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=20,
        dataset=dict(split="train", exclude=val_places, pipeline=train_pipeline, **common),
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        split="train",
        places=val_places,
        test_mode=True,
        pipeline=_base_.test_pipeline,
        **common,
    )
)
test_dataloader = dict(
    dataset=dict(_delete_=True, split="test", test_mode=True, pipeline=_base_.test_pipeline, **common)
)
model_card = dict(
    description="Urban change between two dates of Sentinel-2, all 13 bands at 10 m",
    value_range=(0, 10000),
)
