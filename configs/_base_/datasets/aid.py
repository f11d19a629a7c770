# AID: 30 classes of 220 to 420 aerial images of 600 x 600 pixels, half of each for training, by
# `dynamicvis prepare aid --source data/aid/AID --out data/aid/splits`.
_base_ = "../pipelines/scenes.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/aid/"
source = dict(type="dynamicvis.AID", data_root=data_root, data_prefix=dict(img_path="AID"))
train_dataloader = dict(dataset=source)
val_dataloader = dict(dataset=source)
test_dataloader = dict(dataset=source)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Kind of scene in aerial RGB imagery, 30 classes",
    gsd=1.0,
    tile=600,
    image_size=600,
    training_data="AID (Xia et al. 2017), imagery of Google Earth at 0.5 to 8 m",
    license="research only, as the data set",
)
