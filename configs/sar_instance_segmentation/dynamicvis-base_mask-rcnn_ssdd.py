_base_ = [
    "../_base_/models/mask_rcnn_fpn_base.py",
    "../_base_/datasets/ssdd.py",
    "../_base_/schedules/adamw_cosine_600e.py",
    "../_base_/runtime/default.py",
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))
train_cfg = dict(max_epochs=800, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
# Selected on the validation split; the test split is for tools/test.py alone. The paper selects on the test split and
# trains on all the rest: `--cfg-options train_dataloader.dataset.ann_file=annotations/trainval.json
# val_dataloader.dataset.ann_file=annotations/test.json val_evaluator.ann_file=data/ssdd/annotations/test.json`.
default_hooks = dict(checkpoint=dict(interval=10, save_best="coco/segm_mAP", rule="greater"))
