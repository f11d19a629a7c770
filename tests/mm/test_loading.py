from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from dynamicvis.data.raster import DataError
from dynamicvis.mm.loading import LoadMask, LoadRaster, SkippedImagesHook
from dynamicvis.registry import TRANSFORMS


def write(path: Path, image: np.ndarray) -> str:
    height, width, bands = image.shape
    profile = {"count": bands, "dtype": image.dtype, "transform": rasterio.Affine.scale(2, -2)}
    with rasterio.open(path, "w", width=width, height=height, **profile) as file:
        file.write(image.transpose(2, 0, 1))
    return str(path)


def test_loads_as_mmcv_does_but_with_all_bands(tmp_path: Path) -> None:
    image = np.arange(5 * 7 * 4, dtype=np.uint16).reshape(5, 7, 4) * 90
    path = write(tmp_path / "a.tif", image)
    loader = TRANSFORMS.build({"type": "dynamicvis.LoadRaster", "bands": (4, 1)})
    results = loader({"img_path": path})
    assert results["img"].dtype == np.float32
    np.testing.assert_array_equal(results["img"], image[..., [3, 0]])
    assert results["img_shape"] == results["ori_shape"] == (5, 7)


@pytest.mark.parametrize(("to_float32", "kind"), [(False, np.uint8), (True, np.float32)])
def test_8_bit_images_stay_so_unless_told(to_float32: bool, kind: type, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((3, 3, 3), 7, np.uint8))
    results = LoadRaster(to_float32=to_float32)({"img_path": path})
    assert results["img"].dtype == kind
    assert (results["img"] == 7).all()


def mask_results(tmp_path: Path, mask: np.ndarray, size: tuple[int, int] | None = None) -> dict[str, Any]:
    path = write(tmp_path / "mask.tif", np.atleast_3d(mask))
    shape = mask.shape[:2] if size is None else size
    return {"img_path": "image.tif", "seg_map_path": path, "ori_shape": shape, "seg_fields": []}


def test_masks_become_classes(tmp_path: Path) -> None:
    mask = np.array([[0, 255, 3], [4, 9, 0]], np.uint8)
    results = LoadMask(values=(0, (3, 4), 255), ignore=(9,))(mask_results(tmp_path, mask))
    np.testing.assert_array_equal(results["gt_seg_map"], [[0, 2, 1], [1, 255, 0]])
    assert results["gt_seg_map"].dtype == np.uint8
    assert results["seg_fields"] == ["gt_seg_map"]


def test_255_is_ignored_where_it_is_no_class(tmp_path: Path) -> None:
    mask = np.array([[0, 255], [1, 0]], np.uint8)
    results = mask_results(tmp_path, mask)
    np.testing.assert_array_equal(LoadMask(values=(0, 1))(results)["gt_seg_map"], mask)


def test_soft_masks_are_cut_at_the_threshold(tmp_path: Path) -> None:
    mask = np.array([[0, 127], [128, 255]], np.uint8)
    np.testing.assert_array_equal(LoadMask(threshold=128)(mask_results(tmp_path, mask))["gt_seg_map"], [[0, 0], [1, 1]])


def test_a_grey_mask_saved_as_rgb_is_one_band(tmp_path: Path) -> None:
    mask = np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=2)
    results = mask_results(tmp_path, mask)
    np.testing.assert_array_equal(LoadMask(values=(0, 255))(results)["gt_seg_map"], [[0, 1]])
    mask[0, 0, 1] = 255
    with pytest.raises(DataError, match=r"mask\.tif has 3 bands that differ"):
        LoadMask(values=(0, 255))(mask_results(tmp_path, mask))


def test_values_that_are_no_class_are_named(tmp_path: Path) -> None:
    mask = np.array([[0, 7, 1], [7, 7, 0]], np.uint8)
    with pytest.raises(
        DataError, match=r"mask\.tif holds the value 7, which is no class, at 3 pixels; expected values are 0, 1, 255"
    ):
        LoadMask(values=(0, 1))(mask_results(tmp_path, mask))


def test_a_mask_with_nan_is_refused(tmp_path: Path) -> None:
    results = mask_results(tmp_path, np.array([[0, np.nan, 1]], np.float32))
    for loader in (LoadMask(values=(0, 1)), LoadMask(threshold=0.5)):
        with pytest.raises(DataError, match=r"mask\.tif holds NaN at 1 pixels"):
            loader(results)


def test_a_mask_of_another_size_names_both_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mask\.tif is 3 x 2 pixels and its image image\.tif 4 x 2"):
        LoadMask(values=(0, 1))(mask_results(tmp_path, np.zeros((2, 3), np.uint8), (2, 4)))


@pytest.mark.parametrize("settings", [{}, {"values": (0, 1), "threshold": 1}])
def test_classes_come_from_one_rule(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either values"):
        LoadMask(**settings)


class Images(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": str(path)} for path in sorted(Path(self.data_root).iterdir())]


def images(tmp_path: Path, on_error: str, test_mode: bool = False) -> Images:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        write(folder / f"{index}.tif", np.full((3, 3, 1), index, np.uint8))
    (folder / "2.tif").write_bytes(b"damaged")
    loader = {"type": "dynamicvis.LoadRaster", "on_error": on_error}
    return Images(data_root=str(folder), pipeline=[loader], test_mode=test_mode)


class RunnerStub:
    def __init__(self, dataset: Any) -> None:
        self.train_dataloader = Runner.build_dataloader(
            {"dataset": dataset, "batch_size": 2, "num_workers": 2, "sampler": {"type": "DefaultSampler"}}
        )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """File that the logger of a run writes to."""
    path = tmp_path / "log.txt"
    MMLogger.get_instance(str(path), log_file=str(path))
    return path


def test_a_damaged_image_stops_the_run_by_default(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2\.tif cannot be read"):
        list(RunnerStub(images(tmp_path, "raise")).train_dataloader)


def test_skipped_images_are_replaced_named_and_counted_over_workers(tmp_path: Path, log: Path) -> None:
    runner = RunnerStub(images(tmp_path, "skip"))
    hook = SkippedImagesHook()
    for _ in range(2):
        hook.before_train_epoch(runner)
        loaded = [int(image[0, 0, 0]) for batch in runner.train_dataloader for image in batch["img"]]
        hook.after_train_epoch(runner)
        assert len(loaded) == 4
        assert {0, 1, 3} <= set(loaded)
    said = log.read_text()
    assert "2.tif cannot be read" in said
    counts = re.findall(r"(\d+) times in this epoch an image could not be read", said)
    assert len(counts) == 2
    # The replacement is drawn at random and may be the damaged file again.
    assert min(map(int, counts)) >= 1
    assert sum(map(int, counts)) == runner.train_dataloader.dataset.pipeline.transforms[0].skipped


def test_skipped_images_are_found_below_wrappers(tmp_path: Path) -> None:
    runner = RunnerStub(ConcatDataset([{"type": "RepeatDataset", "dataset": images(tmp_path, "skip"), "times": 2}]))
    for _ in runner.train_dataloader:
        pass
    assert SkippedImagesHook()._count(runner) >= 2


def test_nothing_is_skipped_in_testing(tmp_path: Path, log: Path) -> None:
    dataset = images(tmp_path, "skip", test_mode=True)
    with pytest.raises(Exception, match="None"):
        dataset[2]
    assert "2.tif cannot be read" in log.read_text()


def test_on_error_is_checked() -> None:
    with pytest.raises(ValueError, match="'ignore'"):
        LoadRaster(on_error="ignore")


def test_classes_chosen_from_a_published_set_keep_their_pixels(tmp_path: Path) -> None:
    results = mask_results(tmp_path, np.array([[0, 1, 2]], np.uint8))
    renumbered = LoadMask(values=(0, 1, 2), ignore=())(results | {"label_map": {0: 255, 1: 1, 2: 0}})
    np.testing.assert_array_equal(renumbered["gt_seg_map"], [[255, 1, 0]])


def test_a_label_of_zero_is_left_out_by_values(tmp_path: Path) -> None:
    results = mask_results(tmp_path, np.array([[0, 1, 2]], np.uint8)) | {"reduce_zero_label": True}
    with pytest.raises(DataError, match="give LoadMask values="):
        LoadMask(values=(0, 1, 2))(results)


def test_regions_of_shards_lie_inside_their_image(tmp_path: Path) -> None:
    content = Path(write(tmp_path / "a.tif", np.zeros((20, 30, 3), np.uint8))).read_bytes()
    results = {"img_path": "0.tar/a", "instances": [{"bbox": [1.0, 1.0, 31.0, 21.0]}]}
    assert LoadRaster()(results | {"img_bytes": content})["img"].shape == (20, 30, 3)
    for box in ([1.0, 1.0, 5000.0, 9.0], [30.0, 1.0, 31.0, 9.0]):
        with pytest.raises(DataError, match=r"0\.tar/a: the box .* lies outside its image of 30 x 20"):
            LoadRaster()({"img_path": "0.tar/a", "instances": [{"bbox": box}], "img_bytes": content})
