_base_ = "../pretraining/dynamicvis-large_fmow.py"
