# NWPU VHR-10: ten classes of objects, with masks, in 650 optical images of about 1000 x 600 pixels.
# Made by `dynamicvis prepare nwpu --source FOLDER --out data/nwpu`.
_base_ = "../pipelines/instances.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/nwpu/"
metainfo = dict(
    classes=(
        "airplane",
        "ship",
        "storage tank",
        "baseball diamond",
        "tennis court",
        "basketball court",
        "ground track field",
        "harbor",
        "bridge",
        "vehicle",
    ),
    palette=[
        (220, 20, 60),
        (0, 90, 200),
        (230, 150, 30),
        (30, 160, 60),
        (150, 60, 200),
        (240, 90, 180),
        (0, 180, 180),
        (140, 90, 40),
        (120, 120, 120),
        (240, 220, 60),
    ],
)

files = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(dataset=files)
val_dataloader = dict(dataset=files)
test_dataloader = dict(dataset=files)
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = dict(ann_file=data_root + "annotations/test.json")

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Ten kinds of objects with outlines in optical RGB imagery",
    value_range=(0, 255),
    gsd=1.0,
    tile=1024,
    overlap=256,
    scale=1.0,
    score_threshold=0.3,
    training_data="NWPU VHR-10 (Cheng et al. 2014; masks: Su et al. 2020)",
    license="research only, as the data set",
)
