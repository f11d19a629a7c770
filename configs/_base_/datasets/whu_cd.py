# WHU-CD: buildings in 256 x 256 aerial pairs at 0.2 m, 5947 / 744 / 744 for training, validation and test.
# As tiles: {A,B,label}/*.png, labels 0 and 255, names in list/{train,val,test}.txt. Seen at twice its size.
_base_ = "../pipelines/change_rgb.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/whu-cd/"
resize = dict(_base_.resize, scale=(512, 512))
train_pipeline = [
    *_base_.loading,
    dict(_base_.resize, type="RandomResize", scale=(512, 512), ratio_range=(0.2, 1.8)),
    dict(_base_.crop, crop_size=(512, 512)),
    *_base_.augmentation,
]
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
tta_pipeline = [
    _base_.load,
    dict(type="TestTimeAug", transforms=[[resize], _base_.views, [_base_.mask], [_base_.pack]]),
]

tested = dict(type="dynamicvis.WHUCD", data_root=data_root, pipeline=test_pipeline)
train_dataloader = dict(batch_size=8, dataset=dict(tested, pipeline=train_pipeline))
val_dataloader = dict(dataset=tested)
test_dataloader = dict(dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Changed buildings between two dates of aerial RGB imagery",
    gsd=0.2,
    image_size=256,
    training_data="WHU-CD (Ji et al. 2019)",
    license="research, as the data set; citation asked",
)
