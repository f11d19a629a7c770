_base_ = "dynamicvis-base_embedding_bigearthnet19.py"

model = dict(backbone=dict(arch="nano"))
