_base_ = "../pretraining/dynamicvis-base_fmow.py"
