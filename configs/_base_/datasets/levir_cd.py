# LEVIR-CD: buildings in 1024 x 1024 aerial pairs at 0.5 m, 445 / 64 / 128 for training, validation and test.
# As published: {train,val,test}/{A,B,label}/*.png, labels 0 and 255. Seen at twice its size.
_base_ = "../pipelines/change_rgb.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/levir-cd/"
resize = dict(_base_.resize, scale=(2048, 2048))
train_pipeline = [
    *_base_.loading,
    dict(_base_.resize, type="RandomResize", scale=(2048, 2048), ratio_range=(0.2, 1.8)),
    dict(_base_.crop, crop_size=(1024, 1024)),
    *_base_.augmentation,
]
test_pipeline = [_base_.load, resize, _base_.mask, _base_.pack]
tta_pipeline = [
    _base_.load,
    dict(type="TestTimeAug", transforms=[[resize], _base_.views, [_base_.mask], [_base_.pack]]),
]

tested = dict(data_root=data_root, pipeline=test_pipeline)
train_dataloader = dict(batch_size=4, dataset=dict(tested, pipeline=train_pipeline))
val_dataloader = dict(dataset=tested)
test_dataloader = dict(dataset=tested)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Changed buildings between two dates of aerial RGB imagery",
    gsd=0.5,
    image_size=1024,
    training_data="LEVIR-CD (Chen and Shi 2020)",
    license="academic use only, as the data set",
)
