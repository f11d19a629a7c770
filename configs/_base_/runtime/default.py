default_scope = "mmdet"
custom_imports = dict(imports=["dynamicvis.mm"], allow_failed_imports=False)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # A checkpoint is whole or absent, and the one before goes after it is.
    checkpoint=dict(type="dynamicvis.CheckpointHook", interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    # NaN in the loss stops a run.
    finite_loss=dict(type="dynamicvis.FiniteLossHook"),
    skipped_images=dict(type="dynamicvis.SkippedImagesHook"),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl")
)
log_processor = dict(type="LogProcessor", window_size=20, by_epoch=True)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
