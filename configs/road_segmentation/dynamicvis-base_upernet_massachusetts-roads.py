_base_ = [
    "../_base_/models/upernet_fpn_base.py",
    "../_base_/datasets/massachusetts_roads.py",
    "../_base_/schedules/adamw_cosine_segmentation.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

train_cfg = dict(max_epochs=1200, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
# The best epoch is that of the validation split. The paper picks it on the test split, as
# `--cfg-options val_dataloader.dataset.split=test` does.
default_hooks = dict(checkpoint=dict(interval=10, save_best="seg/IoU_road", rule="greater"))
