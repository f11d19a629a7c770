# sen2ships: ships of 5 to 35 pixels in Sentinel-2 tiles of four bands, 16 bits, reflectance x 10000, boxes and masks.
# Made by `python tools/prepare_data.py sen2ships --source FOLDER --out data/sen2ships`.
# Training: Athens, Cartagena, Gdynia, Port Hedland. Validation: Algiers. Test: Durban, Klang.
data_root = "{{$DYNAMICVIS_DATA:data}}/sen2ships/"
metainfo = dict(classes=("ship",), palette=[(220, 20, 60)], bands=("blue", "green", "red", "nir"))

# Ships are magnified: the finest map has one cell for 4 x 4 pixels. Half of the crops have a ship in them.
_crop = [
    dict(type="dynamicvis.RandomRotate90"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="dynamicvis.RadiometricJitter", peak=10000, gain=0.15, gamma=1.3, gray_prob=0.0, blur=0.7, noise=60.0),
    dict(type="Pad", size=(256, 256), pad_val=dict(img=(755, 868, 823, 1316))),
    dict(type="PackDetInputs"),
]
_load = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="dynamicvis.RandomScale", ratio_range=(1.3, 3.0)),
]
ship_pipeline = [*_load, dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=False), *_crop]
train_pipeline = [*_load, dict(type="RandomCrop", crop_size=(256, 256), allow_negative_crop=True), *_crop]
test_pipeline = [
    dict(type="dynamicvis.LoadRaster"),
    dict(type="Resize", scale_factor=2.0, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
