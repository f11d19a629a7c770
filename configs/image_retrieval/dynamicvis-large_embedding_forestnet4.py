_base_ = "dynamicvis-base_embedding_forestnet4.py"

model = dict(backbone=dict(arch="large"))
