_base_ = "dynamicvis-base_frozen_ucmerced.py"

model = dict(backbone=dict(arch="nano"))
