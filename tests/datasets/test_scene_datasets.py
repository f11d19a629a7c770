from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from scene_layouts import BANDS, scene, write_bigearthnet, write_forestnet, write_scenes
from torchgeo.datasets import BigEarthNet as TorchGeoBigEarthNet

from dynamicvis.data.preparation.scenes import UCMERCED_CLASSES
from dynamicvis.data.raster import DataError
from dynamicvis.mm.datasets import retrieval
from dynamicvis.mm.datasets.retrieval import BigEarthNet, ForestNet
from dynamicvis.mm.datasets.scenes import UCMerced
from dynamicvis.registry import DATASETS, TRANSFORMS


@pytest.fixture(scope="module")
def ucmerced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ucmerced")
    write_scenes(root / "Images", UCMERCED_CLASSES, "{cls}{index:02d}.tif", per_class=2, size=16)
    (root / "list.txt").write_text("river/river01.tif\n\nbeach/beach00.tif\n")
    return root


def build(ucmerced: Path, content: str | None = None, **settings: object) -> UCMerced:
    name = "list.txt"
    if content is not None:
        name = "other.txt"
        (ucmerced / name).write_text(content)
    return UCMerced(ann_file=name, data_root=str(ucmerced), data_prefix={"img_path": "Images"}, **settings)


def test_reads_the_published_layout(ucmerced):
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = DATASETS.build(
            {
                "type": "dynamicvis.UCMerced",
                "ann_file": "list.txt",
                "data_root": str(ucmerced),
                "data_prefix": {"img_path": "Images"},
                "role": "query",
                "pipeline": [
                    {"type": "dynamicvis.LoadRaster"},
                    {"type": "PackInputs", "meta_keys": ("img_path", "role")},
                ],
            }
        )
    assert len(dataset) == 2
    assert len(dataset.metainfo["classes"]) == 21
    sample = dataset[0]
    assert sample["data_samples"].gt_label.tolist() == [UCMERCED_CLASSES.index("river")]
    assert sample["data_samples"].role == "query"
    # Pillow wrote RGB, and RGB comes back: the class's colour in each band.
    generator = np.random.default_rng(0)
    color = np.stack([scene(generator, UCMERCED_CLASSES.index("river"), 16) for _ in range(100)]).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(sample["inputs"].double().mean(dim=(1, 2)), color, atol=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "river/river00.tif\nrivr/river00.tif\n",
            r"other\.txt, line 2: 'rivr' is no class of UCMerced; did you mean 'river'",
        ),
        ("volcano/volcano00.tif\n", "'volcano' is no class of UCMerced; the classes are agricultural, airplane"),
        ("river00.tif\n", "line 1: 'river00.tif' has no label; a line is CLASS/FILE"),
        (
            "\n",
            r"other\.txt names no image, the split is empty; make the lists by `dynamicvis prepare ucmerced`",
        ),
        ("river/river77.tif\n", r"line 1 names river/river77\.tif, but .*river77\.tif does not exist"),
    ],
)
def test_a_wrong_list_is_named(ucmerced, content, message):
    with pytest.raises(DataError, match=message):
        build(ucmerced, content)


def test_a_missing_list_says_how_to_make_it(ucmerced):
    with pytest.raises(DataError, match=r"absent\.txt does not exist; make the lists by `dynamicvis prepare ucmerced`"):
        UCMerced(ann_file="absent.txt", data_root=str(ucmerced))


def test_an_unknown_role_is_refused(ucmerced):
    with pytest.raises(ValueError, match="role must be 'query' or 'database', got 'gallery'"):
        build(ucmerced, role="gallery")


LABELS = {
    "val": [("Vineyards", "Olive groves"), ("Airports",), ("Sea and ocean", "Salines", "Airports")],
    "test": [("Water bodies",)],
}


@pytest.fixture(scope="module")
def bigearthnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bigearthnet")
    write_bigearthnet(root, LABELS)
    return root


def big(root: Path, **settings: object) -> BigEarthNet:
    return BigEarthNet(
        "bigearthnet-val.csv", data_root=str(root), data_prefix={"img_path": "BigEarthNet-v1.0"}, **settings
    )


def test_bigearthnet_has_43_or_19_classes(bigearthnet):
    full, merged = big(bigearthnet), big(bigearthnet, num_classes=19)
    names = [[full.metainfo["classes"][n] for n in full.get_data_info(i)["gt_label"]] for i in range(len(full))]
    assert [set(found) for found in names] == [set(labels) for labels in LABELS["val"]]
    # Airports are in none of the 19: that patch goes.
    names = [[merged.metainfo["classes"][n] for n in merged.get_data_info(i)["gt_label"]] for i in range(len(merged))]
    assert names == [["Permanent crops"], ["Coastal wetlands", "Marine waters"]]


def test_the_nomenclature_is_torchgeos():
    names = TorchGeoBigEarthNet.class_sets
    assert list(retrieval.BIGEARTHNET_43) == names[43]
    assert list(retrieval.BIGEARTHNET_19) == names[19]
    converter = {names[43][old]: names[19][new] for old, new in TorchGeoBigEarthNet.label_converter.items()}
    assert {old: new for new, olds in retrieval.BIGEARTHNET_19.items() for old in olds} == converter


def test_reflectance_becomes_what_eight_bits_would_show(bigearthnet):
    load = TRANSFORMS.build({"type": "dynamicvis.LoadBigEarthNetPatch", "bands": ("B04", "B8A", "B01")})
    stretch = TRANSFORMS.build({"type": "dynamicvis.ReflectanceToByte"})
    results = load({"img_path": big(bigearthnet).get_data_info(2)["img_path"]})
    assert results["img"].shape == (120, 120, 3)
    assert results["img_shape"] == results["ori_shape"] == (120, 120)
    digital = [
        400 + 10 * bands.index(band) + resolution
        for band, resolution in (("B04", 10), ("B8A", 20), ("B01", 60))
        for bands in [BANDS[resolution]]
    ]
    np.testing.assert_allclose(results["img"][60, 60], digital)
    image = stretch(results)["img"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0, 0], np.array(digital) / 2000 * 255, rtol=1e-6)
    bright = stretch({"img": np.array([[0, 2000, 9000]], np.uint16)})["img"]
    assert bright.tolist() == [[0, 255, 255]]


def test_bigearthnet_names_what_is_missing(bigearthnet, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(bigearthnet, root)
    folders = sorted((root / "BigEarthNet-v1.0").iterdir())
    (folders[0] / f"{folders[0].name}_B03.tif").unlink()
    with pytest.raises(DataError, match=r"_B03\.tif does not exist"):
        TRANSFORMS.build({"type": "dynamicvis.LoadBigEarthNetPatch"})({"img_path": str(folders[0])})
    path = folders[0] / f"{folders[0].name}_labels_metadata.json"
    for content, message in (
        ('{"labels": ["Vinyards"]}', r"_labels_metadata\.json: 'Vinyards' is no class of BigEarthNet"),
        ("{}", r"_labels_metadata\.json holds no labels"),
        ('{"labels": ', r"_labels_metadata\.json holds no labels"),
    ):
        path.write_text(content)
        for classes in (43, 19):
            with pytest.raises(DataError, match=message):
                big(root, num_classes=classes)
    path.unlink()
    with pytest.raises(DataError, match=r"_labels_metadata\.json does not exist"):
        big(root)
    with pytest.raises(ValueError, match="num_classes must be 43 or 19, got 20"):
        big(root, num_classes=20)


@pytest.fixture
def forestnet(tmp_path: Path) -> Path:
    pairs = [("Oil palm plantation", "Plantation"), ("Mining", "Other")]
    write_forestnet(tmp_path / "forestnet", {"val": pairs, "test": pairs[:1]})
    return tmp_path / "forestnet"


def test_forestnet_has_12_or_4_classes(forestnet):
    for classes, expected in ((12, ["Oil palm plantation", "Mining"]), (4, ["Plantation", "Other"])):
        dataset = ForestNet("val.csv", data_root=str(forestnet), num_classes=classes)
        names = dataset.metainfo["classes"]
        assert len(names) == classes
        assert [names[dataset.get_data_info(i)["gt_label"]] for i in range(2)] == expected
        assert dataset.get_data_info(0)["img_path"] == str(forestnet / "examples/val_0/images/visible/composite.png")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("merged_label", "merged", r"val\.csv lacks the column 'merged_label'"),
        ("Plantation", "Plantations", r"line 2: 'Plantations' is no class of ForestNet; did you mean 'Plantation'"),
        (",Other,", ",,", r"val\.csv, line 3 has no merged_label"),
        ("examples/val_1", "examples/val_9", r"line 3 names examples/val_9, but .*composite\.png does not exist"),
    ],
)
def test_forestnet_names_what_is_wrong(forestnet, old, new, message):
    path = forestnet / "val.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        ForestNet("val.csv", data_root=str(forestnet), num_classes=4)
