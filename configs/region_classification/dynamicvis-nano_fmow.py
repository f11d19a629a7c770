_base_ = "../pretraining/dynamicvis-nano_fmow.py"
