"""Opens hundreds of damaged and hostile model files, and prints what came of them; a process of its own, for it watches
what Python opens, imports and starts.

Usage: python model_fuzz.py FOLDER [SEED] [FILES]
"""

from __future__ import annotations

import copy
import json
import os
import struct
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from dynamicvis.mm.inference import building, load_tile_model
from dynamicvis.model_card import ModelFileError, read_card, shipped_models
from dynamicvis.model_config import TYPES

SMALL = {
    "backbone": {"arch": "test_nano", "img_size": 64},
    "neck": {"in_channels": [16, 32, 48, 64], "out_channels": 8},
    "bbox_head": {"in_channels": 8, "feat_channels": 8, "stacked_convs": 1},
}
# What stands in hostile files; whoever believes one of them makes or opens a file called pwned, or imports decoy.
TEXTS = [
    "os.system", "posix.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load",
    "torch.nn.Linear", "mmengine.fileio.load", "mmengine.Runner", "mmengine.config.Config.fromfile",
    "mmdet.apis.init_detector", "mmdet.models.FCOS", "mmdet..FCOS", ".FCOS", "FCOS.", "FCOS\n", "fcos", "decoy",
    "decoy.Thing", "Decoy", "mmcv.ReLU", "dynamicvis.mm.export.export_model", "dynamicvis.Embedder",
    "mmpretrain.TIMMBackbone", "TimmClassifier", "mmpretrain.HuggingFaceClassifier", "mmseg.VPD", "mmdet.BertModel",
    "mmdet.Detectron2Wrapper", "GroundingDINO", "mmpretrain.Flamingo", "Pretrained", "AppearanceFreeLink",
    "open('pwned', 'w')", "CameraMotionCompensation", "__import__('os').system('touch pwned')", "pwned.pth",
    "/tmp/../pwned.pth", "http://localhost:1/pwned.pth", "open-mmlab://resnet50", "file:///pwned", "\\\\host\\share",
    "\x1b[2Jhidden", "a\u202eb", "\ud800", "x" * 5000, "", " ",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 3, 7, 1000, 10**6, 10**6 + 1, 10**9, 2**63, 10**400, 0.0, -0.0, 0.5, -1.5, 1e-45, 1e-320, 1e30, 1e308,
    True, False,
]  # fmt: skip
KEYS = [
    "type", "_scope_", "_delete_", "_base_", "init_cfg", "pretrained", "checkpoint", "custom_imports", "class_weight",
    "teacher_config", "teacher_ckpt", "frozen_stages", "plugins", "__class__", "self", "data_preprocessor", "norm_cfg",
    "with_cp", "depths", "dims", "num_classes", "name", "",
]  # fmt: skip
SETTINGS: list[Any] = [
    None, [], {}, [[]], {"type": "Pretrained", "checkpoint": "pwned.pth"}, [{"type": "Pretrained", "checkpoint": "x"}],
    {"imports": ["decoy"]}, {"type": "BN"}, {"type": "nms", "iou_threshold": 0.5}, [{"cfg": {"type": "ContextBlock"}}],
    {"type": "Normal", "layer": "Conv2d", "std": 0.01, "override": {"type": "Pretrained", "checkpoint": "pwned.pth"}},
]  # fmt: skip
JSON_TEXTS = [
    "", "null", "[]", "0", '"x"', "{", "NaN", '{"name": NaN}', "[" * 100_000, '{"a":' * 5000, "\x00", "{}",
    '{"name": "a", "name": "b"}', '{"tile": 1' + "0" * 5000 + "}", "\ufeff{}",
]  # fmt: skip


class Watch:
    """Notes what no model file may cause, from when it is armed.

    Attributes:
        seen: what was caused.
    """

    _PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
    _CONNECTIONS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")
    _CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "shutil.rmtree")

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self._armed = False
        self._folder = str(folder)
        self._known: frozenset[str] = frozenset()
        sys.addaudithook(self._hook)

    def arm(self, on: bool) -> None:
        """Begin to watch, or stop."""
        known = {*sys.stdlib_module_names, *(name.partition(".")[0] for name in sys.modules)}
        self._known = frozenset(known)
        self._armed = on

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event in self._PROCESSES or event in self._CONNECTIONS or event in self._CHANGES:
            self.seen.append(f"{event} {arguments!r}"[:200])
        elif event == "import" and str(arguments[0]).partition(".")[0] not in self._known:
            self.seen.append(f"import {arguments[0]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
            text = str(path)
            if writes or "pwned" in text or "decoy" in text or "hidden" in text:
                self.seen.append(f"open {text} {mode}"[:200])


def make_whole(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Card and weights of a small detector like the shipped one."""
    card = read_card(shipped_models()["trees"])
    with safe_open(str(shipped_models()["trees"]), "pt") as file:
        values = json.loads(file.metadata()["dynamicvis_card"])
    for part, settings in SMALL.items():
        values["config"][part].update(settings)
    values |= {"tile": 64, "overlap": 16}
    assert values["classes"] == list(card.classes)
    path = folder / "whole.safetensors"
    path.write_bytes(save({"x": torch.zeros(200_000)}, {"dynamicvis_card": json.dumps(values)}))
    torch.manual_seed(0)
    with building.quiet():
        weights = building.build_model(read_card(path), path).state_dict()
    return values, {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in nested dictionaries and lists, as keys and indices."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in items:
        yield from _places(entry, (*place, key))


class Mutator:
    """Makes files out of a whole one.

    Args:
        card, weights: of the whole file.
        generator: source of all choices.
    """

    def __init__(self, card: dict[str, Any], weights: dict[str, torch.Tensor], generator: np.random.Generator) -> None:
        self._card, self._weights, self._generator = card, weights, generator
        self._types = sorted({*TYPES["mmdet"], *TYPES["mmengine"], *TYPES["mmseg"], *TYPES["dynamicvis"]})
        self._kinds: list[Callable[[], tuple[str, bytes]]] = [
            self.field, self.setting, self.setting, self.setting, self.known_type, self.key, self.number, self.text,
            self.weight, self.damage,
        ]  # fmt: skip

    def files(self, count: int) -> Iterator[tuple[str, bytes]]:
        """What was done, and the file."""
        for index in range(count):
            yield self._kinds[index % len(self._kinds)]()

    def whole(self) -> bytes:
        """The file as it should be."""
        return self._file(self._card)

    def field(self) -> tuple[str, bytes]:
        """One field of the card is missing, is another's, or is anything."""
        card = copy.deepcopy(self._card)
        name = self._choice(list(card))
        if self._generator.integers(6) == 0:
            del card[name]
            return f"without {name}", self._file(card)
        other = self._card[self._choice(list(card))]
        value = copy.deepcopy(other) if self._generator.integers(4) == 0 else self._anything()
        if isinstance(card[name], list) and card[name] and self._generator.integers(2):
            card[name][int(self._generator.integers(len(card[name])))] = value
        else:
            card[name] = value
        return f"{name}={value!r}"[:150], self._file(card)

    def setting(self) -> tuple[str, bytes]:
        """One value of the config is anything."""
        return self._changed(lambda inside, key: self._anything())

    def number(self) -> tuple[str, bytes]:
        """One number of the config is another."""
        config = self._card["config"]
        places = [place for place in _places(config) if isinstance(_at(config, place), int | float)]
        return self._changed(lambda inside, key: self._choice(NUMBERS), places)

    def known_type(self) -> tuple[str, bytes]:
        """One type of the config is another that a file may name."""
        places = [place for place in _places(self._card["config"]) if place[-1] == "type"]
        return self._changed(lambda inside, key: self._choice(self._types), places)

    def key(self) -> tuple[str, bytes]:
        """One dictionary of the config has a further key, or lacks one."""
        card = copy.deepcopy(self._card)
        config = card["config"]
        inside = _at(config, self._choice([(), *(p for p in _places(config) if isinstance(_at(config, p), dict))]))
        if inside and self._generator.integers(3) == 0:
            name = self._choice(list(inside))
            del inside[name]
            return f"config without {name}", self._file(card)
        name, value = self._choice(KEYS), self._anything()
        inside[name] = value
        return f"config with {name}={value!r}"[:150], self._file(card)

    def text(self) -> tuple[str, bytes]:
        """The card is no JSON, or damaged JSON."""
        if self._generator.integers(2):
            text = self._choice(JSON_TEXTS)
        else:
            text = json.dumps(self._card)
            place = int(self._generator.integers(len(text)))
            text = text[:place] + self._choice(["", ",", "}", '"', "NaN", "Infinity", "1e999", "-"]) + text[place + 1 :]
        return f"card {text[:40]!r}", save(self._weights, {"dynamicvis_card": text})

    def weight(self) -> tuple[str, bytes]:
        """One tensor has other values, another type or another shape, is missing or surplus."""
        weights = dict(self._weights)
        name = self._choice(list(weights))
        value = weights.pop(name)
        change = self._choice(list(_CHANGES))
        changed = _CHANGES[change](value)
        if changed is not None:
            weights[f"{name}.more" if change == "renamed" else name] = changed.contiguous()
        return f"{name} {change}", self._file(self._card, weights)

    def damage(self) -> tuple[str, bytes]:
        """The file is cut off, or some of its bytes are others: mostly in the header."""
        content = bytearray(self.whole())
        size = struct.unpack("<Q", content[:8])[0]
        kind = self._generator.integers(6)
        if kind == 0:
            return "cut", bytes(content[: int(self._generator.integers(len(content)))])
        if kind == 1:
            length = self._choice([0, 1, size - 1, size + 1, len(content), 10**8, 2**31, 2**40, 2**63, 2**64 - 1])
            return f"header of {length}", struct.pack("<Q", length) + bytes(content[8:])
        end = len(content) if kind == 2 else size + 8
        places = self._generator.integers(0, end, 1 if kind < 4 else 5)
        for place in places:
            content[place] = int(self._generator.integers(256))
        return f"altered at {places.tolist()}", bytes(content)

    def _changed(
        self, change: Callable[[Any, Any], Any], places: list[tuple[Any, ...]] | None = None
    ) -> tuple[str, bytes]:
        card = copy.deepcopy(self._card)
        *above, key = self._choice(places or list(_places(card["config"])))
        inside = _at(card["config"], tuple(above))
        inside[key] = value = change(inside, key)
        return f"config {[*above, key]}={value!r}"[:150], self._file(card)

    def _anything(self) -> Any:
        values = self._choice([TEXTS, TEXTS, NUMBERS, SETTINGS])
        value = copy.deepcopy(self._choice(values))
        for _ in range(self._choice([0, 0, 0, 0, 1, 2, 60])):
            value = [value]
        return value

    def _choice(self, values: list[Any]) -> Any:
        return values[int(self._generator.integers(len(values)))]

    def _file(self, card: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> bytes:
        return save(self._weights if weights is None else weights, {"dynamicvis_card": json.dumps(card)})


_CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "missing": lambda value: None,
    "renamed": lambda value: value,
    "NaN": lambda value: torch.full_like(value, float("nan")) if value.is_floating_point() else value + 1,
    "infinite": lambda value: torch.full(value.shape, float("inf")),
    "negative": lambda value: -value.float().abs() - 1,
    "huge": lambda value: torch.full(value.shape, 3e38),
    "double": lambda value: value.double(),
    "bfloat16": lambda value: value.bfloat16(),
    "int8": lambda value: value.to(torch.int8),
    "bool": lambda value: value > 0,
    "flat": lambda value: value.reshape(-1, 1),
    "empty": lambda value: value.reshape(-1)[:0],
    "longer": lambda value: torch.cat([value.reshape(-1)] * 2),
}


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def open_and_run(path: Path) -> None:
    """What happens to a model file in a prediction."""
    read_card(path)
    model = load_tile_model(path)
    edge = min(model.card.tile, 64)
    images = np.full((1, len(model.card.bands), edge, edge), 50, np.float32)
    model(images)


def main() -> None:
    """Open all files and print a summary as JSON."""
    folder = Path(sys.argv[1]).resolve()
    generator = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    warnings.simplefilter("ignore")
    os.chdir(folder)
    for name in ("decoy", "Decoy", *sorted(TYPES["mmdet"])):  # modules that are there to be imported by name
        (folder / f"{name}.py").write_text("open('pwned', 'w')\n")
    sys.path.insert(0, str(folder))
    mutator = Mutator(*make_whole(folder), generator)
    path = folder / "model.safetensors"
    path.write_bytes(mutator.whole())
    open_and_run(path)  # imports and compiles what any model needs
    watch = Watch(folder)
    watch.arm(True)
    Path(os.devnull).open("w").close()
    watch.arm(False)
    assert len(watch.seen) == 1  # it sees
    watch.seen.clear()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = (0.0, "")
    for what, content in mutator.files(count):
        path.write_bytes(content)
        print(ascii(what), file=sys.stderr, flush=True)  # the last line before a crash says where
        watch.arm(True)
        begin = time.perf_counter()
        try:
            open_and_run(path)
            outcomes["run"] += 1
        except ModelFileError as error:
            outcomes["refused"] += 1
            text = str(error)
            if not text.isprintable() or len(text) > 1500 or not (path.name in text or "model '" in text):
                wrong.append(f"{what}: {error!r}")
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
        watch.arm(False)
        slowest = max(slowest, (time.perf_counter() - begin, what))
        wrong += [f"{what}: caused {seen}" for seen in watch.seen]
        watch.seen.clear()
    if (folder / "pwned").exists():
        wrong.append("a file was made")
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "slowest": slowest}))


if __name__ == "__main__":
    main()
