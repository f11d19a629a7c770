_base_ = "dynamicvis-base_embedding_ucmerced.py"

model = dict(backbone=dict(arch="nano"))
