_base_ = "dynamicvis-base_mask-rcnn_nwpu.py"

model = dict(backbone=dict(arch="large"), neck=dict(in_channels=[128, 256, 512, 1024]))
