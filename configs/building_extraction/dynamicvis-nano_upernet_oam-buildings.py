# From scratch on one core.
_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/oam_buildings.py",
    "../_base_/schedules/adamw_cosine_short.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

train_cfg = dict(max_epochs=10, val_interval=1)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best="seg/IoU_building", rule="greater"))
