# Drone mosaics of OpenAerialMap with building outlines, resampled to 0.3 m; split by place. Made by
# `dynamicvis prepare oam-buildings --source FOLDER --out data/oam-buildings`: 144 overlapping tiles of 256 x 256 to
# train, one scene to validate, two scenes of another country to test.
_base_ = "../pipelines/segmentation.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/oam-buildings/"
metainfo = dict(classes=("background", "building"), palette=[(0, 0, 0), (230, 70, 60)])
train_pipeline = [
    _base_.load,
    _base_.mask,
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.75, 1.5), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(256, 256), cat_max_ratio=0.75),
    *_base_.augmentation,
    dict(_base_.pad, size=(256, 256)),
    _base_.pack,
]
test_pipeline = [_base_.load, _base_.mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[_base_.views, [_base_.mask], [_base_.pack]])]

source = dict(type="dynamicvis.SegmentationFolder", data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,  # a worker beside two busy cores stalls torch's threads for longer than loading takes
    dataset=dict(
        source, data_prefix=dict(img_path="train/images", seg_map_path="train/masks"), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    num_workers=0,
    dataset=dict(source, data_prefix=dict(img_path="val/images", seg_map_path="val/masks"), pipeline=test_pipeline),
)
test_dataloader = dict(
    num_workers=0,
    dataset=dict(source, data_prefix=dict(img_path="test/images", seg_map_path="test/masks"), pipeline=test_pipeline),
)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Buildings in RGB mosaics of drones",
    value_range=(0, 255),
    gsd=0.3,
    training_data="mosaics of OpenAerialMap (CC BY 4.0) with outlines of OpenStreetMap (ODbL)",
    license="CC BY 4.0",
)
