# Flips of training, and the views of test-time augmentation (`tools/test.py --tta`): the image and its two flips.
flips = [
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
]
views = [
    dict(type="RandomFlip", prob=0.0),
    dict(type="RandomFlip", prob=1.0, direction="horizontal"),
    dict(type="RandomFlip", prob=1.0, direction="vertical"),
]
