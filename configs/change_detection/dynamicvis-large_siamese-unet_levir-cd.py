_base_ = "dynamicvis-base_siamese-unet_levir-cd.py"

model = dict(backbone=dict(arch="large"), pre_neck=dict(in_channels=[128, 256, 512, 1024]))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
