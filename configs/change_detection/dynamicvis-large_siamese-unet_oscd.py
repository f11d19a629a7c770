# The reference has no large model for this data set: half the batch of base and 0.4 of its learning rate, which is
# what it changes for LEVIR-CD.
_base_ = "dynamicvis-base_siamese-unet_oscd.py"

model = dict(backbone=dict(arch="large"), pre_neck=dict(in_channels=[128, 256, 512, 1024]))
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=1.6e-4))
