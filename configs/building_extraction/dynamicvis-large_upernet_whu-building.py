_base_ = "dynamicvis-base_upernet_whu-building.py"

model = dict(backbone=dict(arch="large"), neck=dict(in_channels=[128, 256, 512, 1024]))
