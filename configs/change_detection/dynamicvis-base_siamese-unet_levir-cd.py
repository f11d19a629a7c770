_base_ = ["_base_siamese-unet.py", "../_base_/datasets/levir_cd.py"]

train_cfg = dict(max_epochs=800)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
