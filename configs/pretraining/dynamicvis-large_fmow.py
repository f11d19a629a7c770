# In several processes the parameters, gradients and optimizer are sharded (FSDP); checkpoints are whole.
_base_ = "dynamicvis-base_fmow.py"

model = dict(backbone=dict(arch="large"), in_channels=[128, 256, 512, 1024])
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
runner_type = "dynamicvis.ShardedRunner"
model_wrapper_cfg = dict(type="dynamicvis.FullySharded")
