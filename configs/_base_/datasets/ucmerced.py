# UC Merced Land Use: 21 classes of 100 aerial images of 256 x 256 pixels, 70 % of each for training, by
# `dynamicvis prepare ucmerced --source data/ucmerced/UCMerced_LandUse/Images --out data/ucmerced/splits`.
_base_ = "../pipelines/scenes.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/ucmerced/"
source = dict(type="dynamicvis.UCMerced", data_root=data_root, data_prefix=dict(img_path="UCMerced_LandUse/Images"))
train_dataloader = dict(dataset=source)
val_dataloader = dict(dataset=source)
test_dataloader = dict(dataset=source)

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Kind of land use in aerial RGB imagery, 21 classes",
    gsd=0.3,
    tile=256,
    image_size=256,
    training_data="UC Merced Land Use (Yang and Newsam 2010)",
    license="Apache-2.0",
)
