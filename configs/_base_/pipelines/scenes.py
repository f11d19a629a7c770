# Scenes of one class each, at 512 x 512 pixels. A data set adds its type and its folder; its lists are by
# dynamicvis prepare.
_base_ = "flips.py"

load = dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1))  # BGR, which AutoAugment takes
views = [*_base_.views, dict(type="RandomFlip", prob=1.0, direction="diagonal")]
train_pipeline = [
    load,
    dict(type="RandomResizedCrop", scale=512, crop_ratio_range=(0.3, 1.0), interpolation="bicubic"),
    *_base_.flips,
    dict(type="AutoAugment", policies="imagenet", hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic")),
    dict(type="PackInputs"),
]
resize = dict(type="Resize", scale=(512, 512), interpolation="bicubic")
test_pipeline = [load, resize, dict(type="PackInputs")]
tta_pipeline = [load, resize, dict(type="TestTimeAug", transforms=[views, [dict(type="PackInputs")]])]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(ann_file="splits/train.txt", pipeline=train_pipeline),
)
testing = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
# The best epoch is picked on images held out from the training part. The paper picks it on the test split:
# `--cfg-options train_dataloader.dataset.ann_file=splits/trainval.txt val_dataloader.dataset.ann_file=splits/test.txt`.
val_dataloader = dict(
    testing,
    persistent_workers=True,
    dataset=dict(ann_file="splits/val.txt", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = dict(testing, dataset=dict(ann_file="splits/test.txt", test_mode=True, pipeline=test_pipeline))

val_evaluator = [
    dict(type="Accuracy", topk=(1,)),
    dict(type="SingleLabelMetric", items=("precision", "recall", "f1-score"), average="macro"),
]
test_evaluator = val_evaluator
model_card = dict(value_range=(0, 255), overlap=0)
