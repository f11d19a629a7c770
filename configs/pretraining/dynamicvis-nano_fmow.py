_base_ = "dynamicvis-base_fmow.py"

model = dict(backbone=dict(arch="nano"), in_channels=[32, 64, 128, 256])
