# sen2ships: ships of 5 to 35 pixels in Sentinel-2 tiles of four bands, 16 bits, reflectance x 10000, boxes and masks.
# Made by `dynamicvis prepare sen2ships --source FOLDER --out data/sen2ships`.
# Training: Athens, Cartagena, Gdynia, Port Hedland. Validation: Algiers. Test: Durban, Klang.
_base_ = "../pipelines/objects.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/sen2ships/"
metainfo = dict(classes=("ship",), palette=[(220, 20, 60)], bands=("blue", "green", "red", "nir"))

# Ships are magnified, since the finest map has one cell for 4 x 4 pixels. More than a third of the crops have one.
loading = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="dynamicvis.RandomScale", ratio_range=(1.3, 3.0)),
]
augmentation = [
    dict(type="dynamicvis.RandomRotate90"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="dynamicvis.RadiometricJitter", gain=0.15, gamma=1.3, gray_prob=0, blur=0.7, noise=60, peak=10000),
    dict(type="Pad", size=(256, 256), pad_val=dict(img=(755, 868, 823, 1316))),
    dict(type="PackDetInputs"),
]
ship_pipeline = [*loading, dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=False), *augmentation]
train_pipeline = [*loading, dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=True), *augmentation]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="Resize", scale_factor=2.0, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    _base_.pack_test,
]

files = dict(data_root=data_root, metainfo=metainfo)
train_set = dict(_base_.source, ann_file="annotations/train.json", **files)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    drop_last=True,
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(
                type="RepeatDataset",
                times=2,
                dataset=dict(train_set, filter_cfg=dict(filter_empty_gt=True), pipeline=ship_pipeline),
            ),
            dict(train_set, filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline),
        ],
    ),
)
val_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(files, pipeline=test_pipeline))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(files, pipeline=test_pipeline))
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = dict(ann_file=data_root + "annotations/test.json")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Ships in Sentinel-2 imagery, four bands of 10 m",
    value_range=(0, 10000),
    gsd=10.0,
    tile=256,
    overlap=64,
    score_threshold=0.3,
    training_data="sen2ships: Athens, Cartagena, Gdynia, Port Hedland",
    license="MIT, as the data set; contains modified Copernicus Sentinel data 2022-2023",
)
