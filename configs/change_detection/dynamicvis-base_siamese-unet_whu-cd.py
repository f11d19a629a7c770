_base_ = ["_base_siamese-unet.py", "../_base_/datasets/whu_cd.py"]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(img_size=512),
    test_cfg=dict(crop_size=(512, 512), stride=(256, 256)),
)
train_cfg = dict(max_epochs=600)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
