# WHU building data set, aerial part: 512 x 512 RGB images at 0.3 m, 4736 / 1036 / 2416 for training, validation and
# test. As published: {train,val,test}/{image,label}/*.tif. Seen at twice its size.
_base_ = "../pipelines/segmentation.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/whu-building/"
mask = dict(_base_.mask, values=(0, (1, 255)))
resize = dict(type="Resize", scale=(1024, 1024), keep_ratio=True, interpolation="bicubic")
train_pipeline = [
    _base_.load,
    mask,
    dict(type="RandomResize", scale=(1024, 1024), ratio_range=(0.3, 1.7), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(1024, 1024), cat_max_ratio=0.75),
    *_base_.augmentation,
    dict(_base_.pad, size=(1024, 1024)),
    _base_.pack,
]
test_pipeline = [_base_.load, resize, mask, _base_.pack]
tta_pipeline = [_base_.load, dict(type="TestTimeAug", transforms=[[resize], _base_.views, [mask], [_base_.pack]])]

source = dict(type="dynamicvis.WHUBuilding", data_root=data_root)
train_dataloader = dict(
    batch_size=8, num_workers=4, persistent_workers=True, dataset=dict(source, split="train", pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=2, persistent_workers=True, dataset=dict(source, split="val", pipeline=test_pipeline))
test_dataloader = dict(num_workers=2, dataset=dict(source, split="test", pipeline=test_pipeline))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Buildings in aerial RGB imagery",
    value_range=(0, 255),
    gsd=0.3,
    image_size=512,
    training_data="WHU building data set, aerial part (Ji et al. 2019)",
    license="research, as the data set",
)
