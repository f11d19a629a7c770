from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from change_scenes import make_levir_cd, make_oscd, make_whu_cd

from dynamicvis.data.raster import DataError
from dynamicvis.mm.change.datasets import OSCD, WHUCD, ChangeFolder
from dynamicvis.mm.change.transforms import LoadRasterPair
from dynamicvis.mm.loading import LoadMask


def names(dataset: ChangeFolder | OSCD | WHUCD) -> list[tuple[str, str, str]]:
    samples = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [(sample["img_path"], sample["img_path2"], sample["seg_map_path"]) for sample in samples]


@pytest.fixture
def levir(tmp_path: Path) -> Path:
    return make_levir_cd(tmp_path / "levir-cd", {"train": 3, "val": 1, "test": 2})


@pytest.fixture
def whu(tmp_path: Path) -> Path:
    return make_whu_cd(tmp_path / "whu-cd", {"train": 2, "val": 1, "test": 1})


@pytest.fixture
def oscd(tmp_path: Path) -> Path:
    return make_oscd(tmp_path / "oscd", {"train": ["alpha", "beta", "gamma"], "test": ["delta"]})


def test_levir_cd_pairs_equal_names(levir: Path) -> None:
    dataset = ChangeFolder(str(levir), "train")
    assert [[Path(path).name for path in sample] for sample in names(dataset)] == [
        [f"train_{index}.png"] * 3 for index in range(3)
    ]
    assert [Path(path).parent.name for path in names(dataset)[0]] == ["A", "B", "label"]
    assert dataset.metainfo["classes"] == ("unchanged", "changed")
    assert len(ChangeFolder(str(levir), "test")) == 2


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("B/train_1.png", r"train/B lacks the partner of .*A/train_1\.png \(1 of 3"),
        ("label/train_2.png", r"train/label lacks the partner of .*A/train_2\.png"),
        ("A/train_0.png", r"train/A lacks the partner of .*B/train_0\.png"),
    ],
)
def test_a_missing_partner_is_named(removed: str, message: str, levir: Path) -> None:
    (levir / "train" / removed).unlink()
    with pytest.raises(DataError, match=message):
        ChangeFolder(str(levir), "train")


def test_empty_and_absent_splits_are_named(levir: Path) -> None:
    for kind in ("A", "B", "label"):
        for path in (levir / "val" / kind).iterdir():
            path.unlink()
    with pytest.raises(DataError, match=r"val/A holds no image"):
        ChangeFolder(str(levir), "val")
    with pytest.raises(DataError, match=r"holdout/A is no folder; check data_root"):
        ChangeFolder(str(levir), "holdout")


def test_labels_become_classes_and_errors_name_the_file(levir: Path) -> None:
    dataset = ChangeFolder(str(levir), "train", pipeline=[LoadRasterPair(), LoadMask(values=(0, 255))])
    sample = dataset[0]
    assert set(np.unique(sample["gt_seg_map"])) == {0, 1}
    assert sample["img"].shape == (64, 64, 6)
    path = levir / "train" / "label" / "train_0.png"
    for mask, message in (
        (np.full((64, 64), 7, np.uint8), r"train_0\.png holds the value 7, which is no class"),
        (np.zeros((64, 60), np.uint8), r"train_0\.png is 60 x 64 pixels and its image .*A/train_0\.png 64 x 64"),
    ):
        with rasterio.open(path, "w", driver="PNG", width=mask.shape[1], height=64, count=1, dtype="uint8") as file:
            file.write(mask, 1)
        with pytest.raises(DataError, match=message):
            dataset[0]


def test_whu_cd_reads_its_lists(whu: Path) -> None:
    dataset = WHUCD(str(whu), "train")
    assert [Path(sample[0]).name for sample in names(dataset)] == ["train_0.png", "train_1.png"]
    assert all(Path(path).is_file() for sample in names(dataset) for path in sample)
    (whu / "B" / "train_1.png").unlink()
    with pytest.raises(DataError, match=r"whu-cd/B has no image train_1, which .*list/train\.txt names"):
        WHUCD(str(whu), "train")
    (whu / "list" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"list/val\.txt does not exist; .* move lines of train\.txt to val\.txt"):
        WHUCD(str(whu), "val")
    (whu / "list" / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"the split 'val' of .* has no pair"):
        WHUCD(str(whu), "val")


def test_oscd_reads_previews_by_place(oscd: Path) -> None:
    dataset = OSCD(str(oscd), "train", exclude=["beta"])
    assert [Path(sample[0]).parents[1].name for sample in names(dataset)] == ["alpha", "gamma"]
    assert [Path(path).name for path in names(dataset)[0]] == ["img1.png", "img2.png", "cm.png"]
    assert [Path(sample[0]).parents[1].name for sample in names(OSCD(str(oscd), "train", places=["beta"]))] == ["beta"]
    assert len(OSCD(str(oscd), "test")) == 1
    with pytest.raises(DataError, match=r"train\.txt has no place 'delta'; it has alpha, beta, gamma"):
        OSCD(str(oscd), "train", places=["delta"])


def test_oscd_stacks_bands_in_the_order_asked_for(oscd: Path) -> None:
    pipeline = [LoadRasterPair(), LoadMask(values=(0, 255))]
    image = OSCD(str(oscd), "train", bands=["B8A", "B01"], pipeline=pipeline)[0]["img"]
    folder = next(oscd.glob("*/alpha/imgs_1_rect"))
    with rasterio.open(next(folder.glob("*B8A.tif"))) as file:
        np.testing.assert_array_equal(image[..., 0], file.read(1))
    with rasterio.open(next((folder.parent / "imgs_2_rect").glob("*B01.tif"))) as file:
        np.testing.assert_array_equal(image[..., 3], file.read(1))


def test_oscd_names_what_is_missing(oscd: Path) -> None:
    with pytest.raises(DataError, match=r"imgs_1_rect has no file of band B99; it has B01, B02"):
        OSCD(str(oscd), "train", bands=["B99"])
    next(oscd.glob("*/beta/pair/img2.png")).unlink()
    with pytest.raises(DataError, match=r"beta/pair/img2\.png does not exist"):
        OSCD(str(oscd), "train")
    next(oscd.glob("*/delta/cm/cm.png")).unlink()
    with pytest.raises(DataError, match=r"no folder in .*oscd has delta/cm/cm\.png; unpack the archives of labels"):
        OSCD(str(oscd), "test")
    with pytest.raises(DataError, match=r"nor a folder in it has val\.txt"):
        OSCD(str(oscd), "val")
