# From scratch on one core.
_base_ = [
    "../_base_/models/upernet_light.py",
    "../_base_/datasets/massachusetts_roads_windows.py",
    "../_base_/schedules/adamw_cosine_short.py",
    "../_base_/runtime/default.py",
]
default_scope = "mmseg"

model = dict(
    # Roads are 4 % of the pixels: without weights nothing is a road for many epochs.
    decode_head=dict(loss_decode=dict(class_weight=[1.0, 6.0])),
    auxiliary_head=dict(loss_decode=dict(class_weight=[1.0, 6.0])),
)
train_cfg = dict(max_epochs=12, val_interval=1)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(save_best="seg/IoU_road", rule="greater"))
