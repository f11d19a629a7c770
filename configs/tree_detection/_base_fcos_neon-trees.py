_base_ = [
    "../_base_/models/fcos_light.py",
    "../_base_/datasets/neon_trees.py",
    "../_base_/schedules/adamw_cosine_ema.py",
    "../_base_/runtime/default.py",
]
