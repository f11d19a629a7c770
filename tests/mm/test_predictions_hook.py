from __future__ import annotations

import csv
import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image
from torch import nn

from dynamicvis.mm.errors import PredictionError
from dynamicvis.mm.predictions import PredictionHook
from dynamicvis.pretraining import RegionClassifier, RegionHead

EDGE, GAP, CAPTION = 320, 6, 20


def write(
    folder: Path, samples: list[BaseDataElement], images: list[torch.Tensor], channels: int, model=None, **metainfo
) -> Path:
    """What the hook writes for samples and their inputs (C, H, W) in a test of a model for so many channels."""
    model = model or nn.Sequential(OrderedDict(backbone=nn.Conv2d(channels, 4, 1)))
    model.data_preprocessor = nn.Identity()
    dataset = type("Data", (list,), {"metainfo": metainfo})(samples)
    runner = SimpleNamespace(model=model, world_size=1, test_dataloader=SimpleNamespace(dataset=dataset))
    folder.mkdir(exist_ok=True)
    hook = PredictionHook(folder)
    hook.before_test_epoch(runner)
    for index, (sample, image) in enumerate(zip(samples, images, strict=True)):
        hook.after_test_iter(runner, index, {"inputs": [image]}, [sample])
    hook.after_test_epoch(runner)
    return folder


def sample(**fields) -> BaseDataElement:
    element = BaseDataElement(metainfo={"img_path": "a/b.tif", "ori_shape": (16, 16)})
    for name, value in fields.items():
        element.set_field(value, name)
    return element


def cells(folder: Path, row: int = 0) -> list[np.ndarray]:
    """Square cells of a row of the sheet."""
    sheet = np.asarray(Image.open(folder / "sheet.png").convert("RGB"))
    top = CAPTION + row * (EDGE + GAP + CAPTION)
    columns = (sheet.shape[1] - GAP) // (EDGE + GAP)
    return [sheet[top : top + EDGE, GAP + column * (EDGE + GAP) :][:, :EDGE] for column in range(columns)]


def test_change_shows_both_dates_and_bands_by_their_names(tmp_path):
    torch.manual_seed(0)
    first = torch.randint(0, 10000, (4, 16, 16), dtype=torch.int32)
    second = first.clone()
    second[2, :8] = 0  # red is dark in the upper half of the second date
    pair = torch.cat([first, second])
    truth, predicted = torch.zeros(2, 1, 16, 16, dtype=torch.long)
    truth[0, :8] = 1
    change = sample(gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted))
    palette = [[0, 0, 0], [255, 255, 255]]
    names = ("blue", "green", "red", "nir")
    write(tmp_path / "out", [change], [pair], 4, classes=("same", "changed"), palette=palette, bands=names)
    before, after, expected, found = cells(tmp_path / "out")
    assert after[: EDGE // 2, :, 0].max() == 0 < after[EDGE // 2 :, :, 0].mean()
    np.testing.assert_array_equal(before[EDGE // 2 :], after[EDGE // 2 :])
    assert before[..., 0].std() > 50  # stretched to the range of bytes
    np.testing.assert_array_equal(expected[: EDGE // 2], np.full((EDGE // 2, EDGE, 3), 255))
    assert expected[EDGE // 2 :].max() == found.max() == 0
    # The bands shown are red, green and blue, whatever nir holds.
    loud = pair.clone()
    loud[[3, 7]] = 10**6
    write(tmp_path / "loud", [change], [loud], 4, classes=("same", "changed"), palette=palette, bands=names)
    np.testing.assert_array_equal(cells(tmp_path / "loud")[0], before)


def test_bands_of_sentinel_2_are_known(tmp_path):
    image = torch.zeros(5, 16, 16)
    image[4] = torch.arange(256).reshape(16, 16)  # red
    element = sample(pred_sem_seg=PixelData(data=torch.zeros(1, 16, 16)))
    write(tmp_path, [element], [image], 5, bands=("B01", "B02", "B03", "B8A", "B04"))
    picture = cells(tmp_path)[0]
    assert picture[..., 1:].max() == 0
    assert picture[..., 0].max() == 255


def test_masks_are_written_as_run_lengths(tmp_path):
    from pycocotools import mask as coco

    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 2:6, 3:9] = True
    masks[1, 10:, 10:] = True
    predicted = InstanceData(
        bboxes=torch.tensor([[3.0, 2.0, 9.0, 6.0], [10.0, 10.0, 16.0, 16.0]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
        masks=masks,
    )
    truth = InstanceData(bboxes=torch.tensor([[3.0, 2.0, 9.0, 6.0]]), labels=torch.tensor([1]))
    element = sample(pred_instances=predicted, gt_instances=truth)
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    write(tmp_path, [element], [image], 3, classes=("a", "b"), palette=[(0, 0, 255), (250, 0, 0)])
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert [result["category_id"] for result in results] == [1, 0]
    assert results[0]["bbox"] == [3.0, 2.0, 6.0, 4.0]
    for result, mask in zip(results, masks.numpy(), strict=True):
        np.testing.assert_array_equal(coco.decode(result["segmentation"]), mask)
    _, _, prediction = cells(tmp_path)
    # The mask of the first object is drawn; the second one's score is too low to be shown.
    assert prediction[4 * 20 + 10, 6 * 20 + 10].tolist() == [125, 0, 0]
    assert prediction[12 * 20 :, 12 * 20 :].max() == 0


def test_regions_are_a_table_in_pixels_of_the_image(tmp_path):
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [16.0, 16.0, 32.0, 32.0]])
    truth = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
    predicted = InstanceData(bboxes=boxes, labels=torch.tensor([1, 1]), scores=torch.tensor([0.75, 0.5]))
    element = sample(pred_instances=predicted, gt_instances=truth)
    element.set_metainfo({"scale_factor": (2.0, 2.0)})
    head = RegionHead(2, 8)
    model = RegionClassifier(nn.Sequential(nn.Conv2d(3, 8, 1)), [8], head)
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    write(tmp_path, [element], [image], 3, model=model, classes=("zoo", "port"), palette=[(0, 0, 255), (250, 0, 0)])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["image", "left", "top", "right", "bottom", "truth", "prediction", "score"],
        ["a/b.tif", "0.0", "0.0", "4.0", "4.0", "zoo", "port", "0.75"],
        ["a/b.tif", "8.0", "8.0", "16.0", "16.0", "port", "port", "0.5"],
    ]
    _, expected, found = cells(tmp_path)
    assert [cell[160, 240].tolist() for cell in (expected, found)] == [[250, 0, 0]] * 2
    assert [cell[40, 80].tolist() for cell in (expected, found)] == [[0, 0, 255], [250, 0, 0]]


def test_several_labels_are_joined(tmp_path):
    element = sample(
        gt_label=torch.tensor([0, 2]), pred_label=torch.tensor([2]), pred_score=torch.tensor([0.2, 0.1, 0.9])
    )
    write(tmp_path, [element], [torch.zeros(3, 16, 16)], 3, classes=("a", "b", "c"))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        line = list(csv.reader(file))[1]
    assert line[:3] == ["a/b.tif", "a;c", "c"]


def test_retrieval_names_the_nearest_of_the_database(tmp_path):
    samples = [
        sample(gt_label=torch.tensor([label]), embedding=torch.tensor(vector))
        for label, vector in [(0, [0.0, 0.0]), (1, [3.0, 3.0]), (0, [0.5, 1.0])]
    ]
    for index, role in enumerate(("query", "database", "database")):
        samples[index].set_metainfo({"role": role, "img_path": f"{index}.png"})
    write(tmp_path, samples, [torch.zeros(3, 16, 16)] * 3, 3, classes=("a", "b"))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    assert lines == [["0.png", "a", "1", "2.png", "a", "1.5"], ["0.png", "a", "2", "1.png", "b", "6.0"]]
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), [[0, 0], [3, 3], [0.5, 1]])


def test_sheet_is_spread_over_a_long_split(tmp_path):
    elements = []
    for index in range(50):
        elements.append(sample(pred_sem_seg=PixelData(data=torch.full((1, 16, 16), index))))
        elements[-1].set_metainfo({"img_path": f"{index}.png"})
    write(tmp_path, elements, [torch.zeros(3, 16, 16)] * 50, 3, palette=[[index, 0, 0] for index in range(50)])
    shown = [int(cells(tmp_path, row)[2][0, 0, 0]) for row in range(8)]
    assert shown == [0, 7, 14, 21, 28, 35, 42, 49]
    assert len(list((tmp_path / "maps").iterdir())) == 50


def test_maps_of_equally_named_images_are_kept_apart(tmp_path):
    elements = [sample(pred_sem_seg=PixelData(data=torch.full((1, 16, 16), index))) for index in range(3)]
    write(tmp_path, elements, [torch.zeros(3, 16, 16)] * 3, 3)
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["b.png", "b_2.png", "b_3.png"]
    assert np.asarray(Image.open(tmp_path / "maps/b_3.png")).max() == 2


def test_unknown_predictions_are_named(tmp_path):
    with pytest.raises(PredictionError, match="depth"):
        write(tmp_path, [sample(depth=torch.zeros(1))], [torch.zeros(3, 16, 16)], 3)
