_base_ = "dynamicvis-base_embedding_bigearthnet43.py"

model = dict(backbone=dict(arch="large"))
