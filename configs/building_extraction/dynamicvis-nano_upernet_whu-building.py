_base_ = "dynamicvis-base_upernet_whu-building.py"

model = dict(backbone=dict(arch="nano"), neck=dict(in_channels=[32, 64, 128, 256]))
