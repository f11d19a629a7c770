_base_ = "dynamicvis-base_siamese-unet_oscd.py"

model = dict(backbone=dict(arch="nano"), pre_neck=dict(in_channels=[32, 64, 128, 256]))
