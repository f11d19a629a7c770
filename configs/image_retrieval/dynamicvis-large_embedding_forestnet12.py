_base_ = "dynamicvis-base_embedding_forestnet12.py"

model = dict(backbone=dict(arch="large"))
