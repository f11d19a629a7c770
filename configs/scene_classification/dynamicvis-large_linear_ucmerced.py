_base_ = "dynamicvis-base_linear_ucmerced.py"

model = dict(backbone=dict(arch="large"), neck=dict(in_channels=1024), head=dict(in_channels=1024))
