# Mosaics of UC Merced: 4 x 4 scenes of 21 classes shrunk to 64 pixels, 0 to 255, each a region with its class. By
# `dynamicvis prepare mosaics --source data/ucmerced/UCMerced_LandUse/Images --out data/mosaics`.
_base_ = "../pipelines/regions.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/mosaics/"
train_pipeline = [
    *_base_.load,
    *_base_.flips,
    dict(type="RandomResize", scale=(256, 256), ratio_range=(0.7, 1.6), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(256, 256), crop_type="absolute", allow_negative_crop=False),
    dict(type="Pad", size=(256, 256), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(8, 8)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    *_base_.load,
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape")),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(dataset=dict(data_root=data_root + "train", pipeline=train_pipeline)),
)
tested = dict(pipeline=test_pipeline)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(tested, data_root=data_root + "val"))
test_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(tested, data_root=data_root + "test"))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of aerial RGB imagery",
    gsd=1.2,
    tile=256,
    training_data="mosaics of UC Merced Land Use (Yang and Newsam 2010)",
    license="Apache-2.0",
)
