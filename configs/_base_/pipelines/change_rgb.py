# Change detection of the paper: red, green and blue, cubic interpolation, and workers for a GPU.
_base_ = "change.py"

loading = [_base_.load, _base_.mask, _base_.rotate]
resize = dict(type="Resize", keep_ratio=True, interpolation="bicubic")
crop = dict(type="RandomCrop", cat_max_ratio=0.75)
augmentation = [*_base_.flips, _base_.distortion, _base_.pack]

train_dataloader = dict(num_workers=8, persistent_workers=True)
val_dataloader = dict(num_workers=4, persistent_workers=True)
test_dataloader = dict(num_workers=4)
