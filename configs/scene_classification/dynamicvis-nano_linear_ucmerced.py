_base_ = "dynamicvis-base_linear_ucmerced.py"

model = dict(backbone=dict(arch="nano"), neck=dict(in_channels=256), head=dict(in_channels=256))
