# Functional Map of the World, fMoW-rgb: 62 functions of places and what is none of them, boxes in images of any size.
# Shards by `dynamicvis prepare fmow --source fMoW-rgb --splits train val test_gt --out data/fmow`.
_base_ = "../pipelines/regions.py"

data_root = "{{$DYNAMICVIS_DATA:data}}/fmow/"
# From zoo to airport and false_detection last: the order of the reference's checkpoints.
classes = """
    zoo wind_farm water_treatment_facility waste_disposal tunnel_opening tower toll_booth swimming_pool surface_mine
    storage_tank stadium space_facility solar_farm smokestack single-unit_residential shopping_mall shipyard runway
    road_bridge recreational_facility railway_bridge race_track prison port police_station place_of_worship
    parking_lot_or_garage park oil_or_gas_facility office_building nuclear_powerplant multi-unit_residential
    military_facility lighthouse lake_or_pond interchange impoverished_settlement hospital helipad
    ground_transportation_station golf_course gas_station fountain flooded_road fire_station factory_or_powerplant
    electric_substation educational_institution debris_or_rubble dam crop_field construction_site car_dealership
    burial_site border_checkpoint barn archaeological_site aquaculture amusement_park airport_terminal
    airport_hangar airport false_detection
"""
metainfo = dict(classes=tuple(classes.split()))

train_pipeline = [
    *_base_.load,
    *_base_.flips,
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), crop_type="absolute", allow_negative_crop=False),
    dict(type="Pad", size=(512, 512), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(8, 8)),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    *_base_.load,
    dict(type="Resize", scale=(512, 512), keep_ratio=True),
    dict(type="Pad", size=(512, 512), pad_val=dict(img=(123.675, 116.28, 103.53))),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(dataset=dict(data_root=data_root + "train", metainfo=metainfo, pipeline=train_pipeline)),
)
tested = dict(metainfo=metainfo, pipeline=test_pipeline)
val_dataloader = dict(batch_size=64, num_workers=8, dataset=dict(tested, data_root=data_root + "val"))
test_dataloader = dict(batch_size=64, num_workers=8, dataset=dict(tested, data_root=data_root + "test_gt"))

# What a single-file model of such a run says about itself besides what stands in its config.
model_card = dict(
    description="Embedding of optical RGB imagery",
    gsd=0.5,
    tile=512,
    scale=1.0,
    training_data="fMoW-rgb (Christie et al. 2018), regions of 63 classes",
    license="fMoW Challenge Public License, as the data set",
)
