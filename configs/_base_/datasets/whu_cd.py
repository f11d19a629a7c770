# WHU-CD: buildings in 256 x 256 aerial pairs at 0.2 m, 5947 / 744 / 744 for training, validation and test.
# As tiles: {A,B,label}/*.png, labels 0 and 255, names in list/{train,val,test}.txt. Seen at twice its size.
_base_ = "../pipelines/change.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/whu-cd/"
resize = dict(type="Resize", scale=(512, 512), keep_ratio=True, interpolation="bicubic")
train_pipeline = [
    _base_.load,
    _base_.mask,
    _base_.rotate,
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.2, 1.8), keep_ratio=True, interpolation="bicubic"),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    *_base_.flips,
    _base_.distortion,
    _base_.pack,
]
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
tta_pipeline = [
    _base_.load,
    dict(type="TestTimeAug", transforms=[[resize], _base_.views, [_base_.mask], [_base_.pack]]),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(type="dynamicvis.WHUCD", data_root=data_root, pipeline=train_pipeline),
)
tested = dict(type="dynamicvis.WHUCD", data_root=data_root, pipeline=test_pipeline)
val_dataloader = dict(num_workers=4, persistent_workers=True, dataset=tested)
test_dataloader = dict(num_workers=4, dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Changed buildings between two dates of aerial RGB imagery",
    gsd=0.2,
    image_size=256,
    training_data="WHU-CD (Ji et al. 2019)",
    license="research, as the data set; citation asked",
)
