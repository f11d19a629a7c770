"""A model file of every task gives what the OpenMMLab model that it was made of gives."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope

from dynamicvis import load_model
from dynamicvis.mm.export import export_model
from dynamicvis.mm.inference.caps import ObjectCaps
from dynamicvis.mm.inference.tile_model import OpenMMLabModel
from dynamicvis.model_card import ModelCard, ModelFileError, read_weights

CONFIGS = Path(__file__).parents[2] / "configs"
OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
BACKBONE = {"model.backbone.arch": "test_nano", "model.backbone.img_size": 64}
FCOS = BACKBONE | {"model.neck.in_channels": [16, 32, 48, 64], "model.test_cfg.score_thr": 0.0}
MASK_RCNN = BACKBONE | {
    "model.neck.in_channels": [16, 32, 48, 64],
    "model.neck.out_channels": 16,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.test_cfg.rpn.max_per_img": 30,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 16,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
}
UPERNET = BACKBONE | {
    "model.neck.in_channels": [16, 32, 48, 64],
    "model.neck.out_channels": 16,
    "model.decode_head.in_channels": [16, 16, 16, 16],
    "model.decode_head.channels": 16,
    "model.auxiliary_head.in_channels": 16,
    "model.auxiliary_head.channels": 16,
}
DENSE = BACKBONE | {"model.backbone.keep_ratios": [None] * 4}
SIAMESE = BACKBONE | {"model.pre_neck.in_channels": [16, 32, 48, 64]}
CLASSIFIER = BACKBONE | {"model.neck.in_channels": 64, "model.head.in_channels": 64}

CASES = {
    "detection": ("ship_detection/dynamicvis-nano_fcos_sen2ships.py", FCOS),
    "instance_segmentation": ("instance_segmentation/dynamicvis-nano_mask-rcnn_sen2ships.py", MASK_RCNN),
    "segmentation": ("building_extraction/dynamicvis-nano_upernet_whu-building.py", UPERNET),
    "one_channel": (
        "building_extraction/dynamicvis-nano_upernet_oam-buildings.py",
        UPERNET | {"model.decode_head.out_channels": 1, "model.decode_head.loss_decode.use_sigmoid": True},
    ),
    "change": ("change_detection/dynamicvis-nano_siamese-unet_oscd-4bands.py", SIAMESE),
    "enlarged_change": ("change_detection/dynamicvis-nano_siamese-unet_landsat-cd.py", SIAMESE),
    "classification": ("scene_classification/dynamicvis-nano_linear_ucmerced.py", CLASSIFIER),
    "embedding": ("image_retrieval/dynamicvis-nano_embedding_ucmerced.py", BACKBONE),
    "dense": ("image_retrieval/dynamicvis-nano_embedding_ucmerced.py", DENSE),
    "clipped_embedding": ("image_retrieval/dynamicvis-nano_embedding_bigearthnet19.py", BACKBONE),
}


@dataclass(frozen=True)
class Pair:
    """A model of OpenMMLab, the file made of it, and two tiles in raster units."""

    model: Any
    path: Path
    card: ModelCard
    images: np.ndarray

    def own_results(self, images: np.ndarray) -> list[Any]:
        """What the model's own ``test_step`` gives for images in the order and the units that its loader leaves."""
        samples, inputs = [], []
        for image in images:
            height, width = image.shape[1:]
            size = (int(width * self.card.scale + 0.5), int(height * self.card.scale + 0.5))
            inputs.append(image)
            if size != (width, height):
                method = OPENCV[self.card.interpolation]
                inputs[-1] = np.stack([cv2.resize(band, size, interpolation=method) for band in image])
            meta = {"ori_shape": (height, width), "img_shape": size[::-1], "pad_shape": size[::-1]}
            samples.append(sample(self.card.task, {**meta, "scale_factor": (size[0] / width, size[1] / height)}))
        with torch.no_grad():
            return self.model.test_step(
                {"inputs": [torch.from_numpy(image) for image in inputs], "data_samples": samples}
            )


def sample(task: str, meta: dict[str, Any]) -> Any:
    from mmdet.structures import DetDataSample
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    kinds = {"detection": DetDataSample, "instance_segmentation": DetDataSample}
    kinds |= {"segmentation": SegDataSample, "change": SegDataSample}
    return kinds.get(task, DataSample)(metainfo=meta)


def make(case: str, folder: Path, score_threshold: float | None = None) -> Pair:
    name, options = CASES[case]
    config = Config.fromfile(CONFIGS / name)
    config.merge_from_dict(options)
    path = folder / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    torch.manual_seed(0)
    settings = config.model
    if "data_preprocessor" in config:
        settings.data_preprocessor = config.data_preprocessor
    with (
        DefaultScope.overwrite_default_scope(config.default_scope),
        MODELS.switch_scope_and_registry(config.default_scope) as registry,
    ):
        model = registry.build(settings)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value += 0.05 * torch.rand_like(value)
    torch.save({"state_dict": model.state_dict()}, folder / "last.pth")
    out = folder / "model.safetensors"
    card = export_model(path, folder / "last.pth", out, name=case, score_threshold=score_threshold)
    # Files hold half the precision.
    model.load_state_dict(read_weights(out), strict=False)
    bands = len(card.bands) * (2 if card.task == "change" else 1)
    low, high = card.value_range
    images = np.random.default_rng(1).uniform(low, 1.2 * high if card.clip else high, (2, bands, 48, 64))
    return Pair(model.eval(), out, card, images.astype(np.float32))


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    """Those made so far."""
    return {}


@pytest.fixture
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param not in pairs:
        pairs[request.param] = make(request.param, tmp_path_factory.mktemp(request.param))
    return pairs[request.param]


def cases(*names: str) -> Any:
    return pytest.mark.parametrize("pair", names or list(CASES), indirect=True)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@cases("segmentation", "change", "enlarged_change")
def test_class_maps_are_those_of_mmseg(pair: Pair) -> None:
    outputs = load_model(pair.path)(pair.images)
    assert outputs.objects is None
    assert outputs.vectors is None
    scores = outputs.maps["scores"]
    assert scores.dtype == np.float32
    assert scores.shape == (2, len(pair.card.classes), 48, 64)
    close(scores.sum(axis=1), np.ones((2, 48, 64)))
    for actual, expected in zip(scores, pair.own_results(pair.images), strict=True):
        close(actual, expected.seg_logits.data.softmax(dim=0), 1e-4)


@cases("one_channel")
def test_a_model_with_one_channel_gives_both_classes(pair: Pair) -> None:
    scores = load_model(pair.path)(pair.images).probabilities
    assert scores is not None
    for actual, expected in zip(scores, pair.own_results(pair.images), strict=True):
        close(actual[1:], expected.seg_logits.data, 1e-4)  # mmseg's are probabilities here
        close(actual[0], 1 - actual[1])


@cases("detection", "instance_segmentation")
def test_objects_are_those_of_mmdet(pair: Pair) -> None:
    outputs = load_model(pair.path)(pair.images)
    assert not outputs.maps
    assert outputs.vectors is None
    assert len(outputs.objects) == 2
    for actual, expected in zip(outputs.objects, pair.own_results(pair.images), strict=True):
        found = expected.pred_instances
        found = found[found.scores >= pair.card.score_threshold]
        assert len(found) > 1
        close(actual.boxes, found.bboxes, 1e-3)
        close(actual.scores, found.scores)
        close(actual.labels, found.labels)
        assert (actual.boxes.dtype, actual.scores.dtype, actual.labels.dtype) == (np.float64, np.float64, np.int64)
        if pair.card.task == "detection":
            assert actual.masks is None
        else:
            assert actual.masks.dtype == bool
            assert actual.masks.shape == (len(found), 48, 64)
            assert (actual.masks != found.masks.numpy()).mean() < 1e-3
            assert actual.masks.any()


@cases("detection", "instance_segmentation")
def test_the_most_objects_of_a_tile_grow_with_its_area(pair: Pair) -> None:
    settings = pair.model.test_cfg
    parts = [settings] if pair.card.task == "detection" else [settings.rpn, settings.rcnn]
    before = [(part.nms_pre if "nms_pre" in part else None, part.max_per_img) for part in parts]
    inner = copy.deepcopy(pair.model)
    model = OpenMMLabModel(inner, replace(pair.card, tile=24, overlap=0), torch.device("cpu"))
    sizes = {(24, 24): 1.0, (12, 24): 1.0, (48, 64): 48 * 64 / 24**2}
    for (height, width), factor in [*sizes.items(), ((24, 24), 1.0)]:
        outputs = model(pair.images[:, :, :height, :width])
        most = math.ceil(before[-1][1] * factor)
        assert [found.most for found in outputs.objects] == [most, most]
        heads = [inner.bbox_head] if pair.card.task == "detection" else [inner.rpn_head, inner.roi_head]
        for head, (candidates, objects) in zip(heads, before, strict=True):
            assert head.test_cfg.max_per_img == math.ceil(objects * factor)
            assert candidates is None or head.test_cfg.nms_pre == math.ceil(candidates * factor)


def test_a_fixed_set_of_queries_does_not_grow() -> None:
    model = torch.nn.Module()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.num_queries, model.bbox_head.test_cfg = 100, ConfigDict(max_per_img=100)
    caps = ObjectCaps(model, 64 * 64)
    caps.fit(128, 128)
    assert caps.most == 100


@cases("classification")
def test_probabilities_are_those_of_mmpretrain(pair: Pair) -> None:
    outputs = load_model(pair.path)(pair.images)
    assert not outputs.maps
    assert outputs.objects is None
    assert outputs.vectors.dtype == np.float32
    # The file's order is red, green, blue; the config's loader gives them the other way round.
    expected = pair.own_results(np.ascontiguousarray(pair.images[:, ::-1]))
    close(outputs.vectors, torch.stack([found.pred_score for found in expected]))
    assert outputs.probabilities is outputs.vectors


@cases("embedding", "dense", "clipped_embedding")
def test_embeddings_are_those_of_the_embedder(pair: Pair) -> None:
    images = pair.images
    if pair.card.clip:
        assert pair.card.value_range == (0, 2000)
        images = (images * np.float32(255 / 2000)).clip(0, 255)
    expected = torch.stack([found.embedding for found in pair.own_results(images)])
    outputs = load_model(pair.path)(pair.images)
    close(outputs.embedding, expected, 1e-4)
    assert not outputs.maps
    assert outputs.objects is None
    assert pair.card.classes == ()
    assert all(name.startswith("backbone.") for name in read_weights(pair.path))


@cases()
def test_a_tile_is_answered_the_same_alone_and_in_a_batch(pair: Pair) -> None:
    model = load_model(pair.path)
    together, second = model(pair.images), model(pair.images[1:])
    again = model(pair.images)
    for name, values in together.maps.items():
        close(second.maps[name][0], values[1])
        np.testing.assert_array_equal(again.maps[name], values)
    for name in ("vectors", "embedding"):
        if getattr(together, name) is not None:
            close(getattr(second, name)[0], getattr(together, name)[1])
    for alone, among in zip(second.objects or (), (together.objects or ())[1:], strict=True):
        close(alone.scores, among.scores)
        close(alone.boxes, among.boxes, 1e-3)


@cases("detection", "change", "classification", "embedding", "instance_segmentation")
def test_selection_is_where_the_blocks_looked(pair: Pair) -> None:
    model = load_model(pair.path, selection=True)
    outputs = model(pair.images)
    selection = outputs.maps["selection"]
    assert selection.dtype == np.float32
    assert set(np.unique(selection)) <= {0, 1}
    plain = load_model(pair.path)(pair.images)
    for name, values in plain.maps.items():
        np.testing.assert_array_equal(values, outputs.maps[name])
    # The same from the backbone itself, pixel by pixel.
    ratios = pair.model.backbone.keep_ratios
    stages = [stage for stage, ratio in enumerate(ratios) if ratio is not None]
    assert selection.shape == (2, len(stages), 48, 64)
    pair.model.backbone.record_selection = True
    images = pair.images if pair.card.task != "classification" else np.ascontiguousarray(pair.images[:, ::-1])
    for index in range(2):
        pair.own_results(images[index : index + 1])
        found = pair.model.backbone.last_selection
        for layer, stage in enumerate(stages):
            expected = np.zeros((48, 64), bool)
            edge = 4 * 2**stage / pair.card.scale
            for block in found:
                if block.stage == stage:
                    for token in block.indices.flatten().tolist():
                        row, column = divmod(token, block.grid[1])
                        top, left = int(row * edge), int(column * edge)
                        expected[top : int((row + 1) * edge), left : int((column + 1) * edge)] = True
            np.testing.assert_array_equal(selection[index, layer], expected)
    pair.model.backbone.record_selection = False


def test_a_model_that_selects_nothing_has_no_selection(tmp_path: Path) -> None:
    path = make("dense", tmp_path).path
    with pytest.raises(ModelFileError, match=r"model 'dense' selects no tokens"):
        load_model(path, selection=True)


@cases("detection", "change", "classification", "segmentation")
def test_embedding_of_any_model_is_the_mean_of_its_backbones_last_map(pair: Pair) -> None:
    model = load_model(pair.path, embedding=True)
    assert model.card.task == "embedding"
    one_date = pair.images[:, : len(pair.card.bands)]
    outputs = model(one_date)
    assert not outputs.maps
    assert outputs.objects is None
    with torch.no_grad():
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (pair.card.mean, pair.card.std))
        normalised = (torch.from_numpy(one_date) - mean) / std
        if pair.card.scale != 1:
            mode = pair.card.interpolation
            normalised = torch.nn.functional.interpolate(
                normalised, scale_factor=pair.card.scale, mode=mode, align_corners=False
            )
        expected = pair.model.backbone(normalised)[-1].mean(dim=(2, 3))
    assert outputs.embedding is not None
    assert outputs.probabilities is None
    close(outputs.embedding, expected, 1e-4)
    assert outputs.embedding.dtype == np.float32


@cases("change")
def test_both_dates_are_needed(pair: Pair) -> None:
    with pytest.raises(ValueError, match=r"model 'change' takes windows of 8 bands"):
        load_model(pair.path)(pair.images[:, :4])


@cases("segmentation")
def test_a_tile_of_any_size_is_answered(pair: Pair) -> None:
    model = load_model(pair.path)
    for height, width in ((1, 1), (5, 33), (64, 7)):
        image = np.full((1, 3, height, width), 100, np.float32)
        assert model(image).maps["scores"].shape == (1, 2, height, width)


@cases("detection", "change", "classification")
def test_a_command_loads_a_model_without_a_word_or_packages_that_it_does_not_use(pair: Pair) -> None:
    code = (
        "import sys, numpy\n"
        "from dynamicvis.geo.models import load_model\n"
        "model = load_model(sys.argv[1])\n"
        "bands = len(model.card.bands) * (2 if model.card.task == 'change' else 1)\n"
        "model(numpy.zeros((1, bands, 32, 32), 'float32'))\n"
        "assert 'transformers' not in sys.modules or model.card.task == 'classification'\n"
        "assert not [name for name, module in sys.modules.items() if module is None and name.startswith('mm')]\n"
        "import mmdet, mmseg, mmpretrain\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(pair.path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("pair", "change", "message"),
    [
        ("detection", "less", r"last\.pth holds weights of another architecture .*1 tensors missing, 0 unexpected"),
        ("detection", "more", r"last\.pth holds weights of another architecture .*1 unexpected, .*such as more"),
        ("detection", "shape", r"last\.pth holds weights of another architecture .*1 of another shape"),
        ("detection", "type", r"last\.pth holds .* as BOOL, and the model needs torch\.float32"),
        ("detection", "classes", r"config\.json describes a model of 1 classes and names 2"),
        ("detection", "build", r"config\.json describes an architecture that this version cannot build"),
        ("embedding", "less", r"last\.pth holds weights of another architecture .*1 tensors missing, 0 unexpected"),
    ],
    indirect=["pair"],
)
def test_no_file_is_written_that_cannot_be_used(pair: Pair, change: str, message: str, tmp_path: Path) -> None:
    config = json.loads(pair.path.with_name("config.json").read_text())
    state = torch.load(pair.path.with_name("last.pth"), weights_only=True)["state_dict"]
    name = next(name for name in state if name.startswith("backbone.") and name.endswith(".weight"))
    if change == "less":
        del state[name]
    elif change == "more":
        state["more"] = torch.ones(1)
    elif change == "shape":
        state[name] = state[name][:1]
    elif change == "type":
        state[name] = state[name] > 0
    elif change == "classes":
        config["model_card"] |= {"classes": ["ship", "boat"], "colors": ["#ff0000", "#00ff00"]}
    else:
        config["model"]["neck"]["speed"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": state}, tmp_path / "last.pth")
    with pytest.raises(ModelFileError, match=message):
        export_model(tmp_path / "config.json", tmp_path / "last.pth", tmp_path / "new.safetensors", name="new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "last.pth"]
