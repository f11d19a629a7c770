# AID: 30 classes of 220 to 420 aerial images of 600 x 600 pixels, half of each for training, by
# `python tools/prepare_data.py aid --source data/aid/AID --out data/aid/splits`.
data_root = "{{$DYNAMICVIS_DATA:data}}/aid/"

train_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1)),  # BGR, which AutoAugment takes
    dict(type="RandomResizedCrop", scale=512, crop_ratio_range=(0.3, 1.0), interpolation="bicubic"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(type="AutoAugment", policies="imagenet", hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic")),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1)),
    dict(type="Resize", scale=(512, 512), interpolation="bicubic"),
    dict(type="PackInputs"),
]
tta_pipeline = [
    dict(type="dynamicvis.LoadRaster", bands=(3, 2, 1)),
    dict(type="Resize", scale=(512, 512), interpolation="bicubic"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
                dict(type="RandomFlip", prob=1.0, direction="diagonal"),
            ],
            [dict(type="PackInputs")],
        ],
    ),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="dynamicvis.AID",
        data_root=data_root,
        data_prefix=dict(img_path="AID"),
        ann_file="splits/train.txt",
        pipeline=train_pipeline,
    ),
)
# The best epoch is picked on images held out from the training part. The paper picks it on the test split:
# `--cfg-options train_dataloader.dataset.ann_file=splits/trainval.txt val_dataloader.dataset.ann_file=splits/test.txt`.
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="dynamicvis.AID",
        data_root=data_root,
        data_prefix=dict(img_path="AID"),
        ann_file="splits/val.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="dynamicvis.AID",
        data_root=data_root,
        data_prefix=dict(img_path="AID"),
        ann_file="splits/test.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = [
    dict(type="Accuracy", topk=(1,)),
    dict(type="SingleLabelMetric", items=("precision", "recall", "f1-score"), average="macro"),
]
test_evaluator = val_evaluator

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Kind of scene in aerial RGB imagery, 30 classes",
    value_range=(0, 255),
    gsd=1.0,
    tile=600,
    overlap=0,
    image_size=600,
    training_data="AID (Xia et al. 2017), imagery of Google Earth at 0.5 to 8 m",
    license="research only, as the data set",
)
