"""What identifies a function: all that its results depend on, the same in every process."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from geo_scenes import make_card, write_raster

from dynamicvis.geo import GeoError, Settings, map_raster, predict
from dynamicvis.geo.runs.identity import identify
from dynamicvis.tile_model import TileOutputs

LEVEL = 3
TABLE = {"low": [1, 2], "names": {"x", "y", "z", "a", "b"}}


def level(images: Any) -> Any:
    return images + LEVEL


def through_another(images: Any) -> Any:
    return [level(image) for image in images]


def looked_up(images: Any) -> Any:
    return images + TABLE["low"][0] if "x" in {"p", "q", "r", "s"} else np.pi


def scaled(images: Any, gain: Any = 1, *, bias: Any = 0) -> Any:
    return images * gain + bias


def closed(value: Any) -> Callable[[Any], Any]:
    def inner(images: Any) -> Any:
        return images * value

    return inner


def decorated(value: Any) -> Callable[[Any], Any]:
    @functools.wraps(level)
    def inner(images: Any) -> Any:
        return level(images) * value

    return inner


@dataclass
class Options:
    gain: float = 2.0
    names: list[str] = field(default_factory=lambda: ["a", "b"])


class Model:
    """A callable object of the user's own."""

    factor = 2

    def __init__(self, value: Any = 1) -> None:
        self.value, self.options, self.lock = value, Options(), threading.Lock()

    def __call__(self, images: Any) -> Any:
        return self.apply(images)

    def apply(self, images: Any) -> Any:
        return images * self.value


class Other(Model):
    def apply(self, images: Any) -> Any:
        return images + self.value


@numba.njit
def compiled(value: float) -> float:
    return value + LEVEL


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).eval()


def cases() -> dict[str, Any]:
    """Callables that are all different."""
    half = torch.ones(2, dtype=torch.bfloat16)
    return {
        "level": level,
        "through another": through_another,
        "looked up": looked_up,
        "lambda": lambda images: images * 2,
        "lambda of 3": lambda images: images * 3,
        "partial": partial(scaled, gain=1),
        "partial of 2": partial(scaled, gain=2),
        "partial by place": partial(scaled, 2),
        "partial of another": partial(level, 2),
        "partial of partial": partial(partial(scaled, gain=2), bias=1),
        "closure": closed(1),
        "closure of a float": closed(1.0),
        "closure of True": closed(True),
        "closure of an array": closed(np.arange(3)),
        "closure of other numbers": closed(np.arange(3) + 1),
        "closure of another type": closed(np.arange(3).astype(np.int16)),
        "closure of a shape": closed(np.arange(3)[None]),
        "closure of a tensor": closed(half),
        "closure of a tensor of 2": closed(half * 2),
        "closure of a function": closed(np.sqrt),
        "closure of a closure": closed(closed(1)),
        "closure of a mapping": closed(OrderedDict(a=1)),
        "closure of a set": closed({"a", "b", "c", "d", "e", "f"}),
        "closure of a generator of numbers": closed(np.random.default_rng(1)),
        "decorated": decorated(1),
        "decorated by 2": decorated(2),
        "object": Model(),
        "object of 2": Model(2),
        "object of another class": Other(),
        "method": Model().apply,
        "method of 2": Model(2).apply,
        "module": network(0),
        "module of other weights": network(1),
        "module in training": network(0).train(),
        "closure of a module": closed(network(0)),
        "without gradients": torch.no_grad()(level),
        "torch.compile": torch.compile(closed(7)),
        "torch.compile of a module": closed(torch.compile(network(3))),
        "numba": compiled,
        "cached": functools.lru_cache(level),
        "vectorized": np.vectorize(level),
        "ufunc": np.sqrt,
        "built in": abs,
        "of a library": torch.nn.functional.relu,
        "of a class of a library": torch.nn.ReLU(),
    }


def digests() -> dict[str, str]:
    found = {}
    for name, function in cases().items():
        identity = identify(function)
        assert identity.unknown is None, (name, identity.unknown)
        found[name] = " ".join(f"{part}={digest}" for part, digest in sorted(identity.parts.items()))
    return found


def test_different_functions_differ_and_every_process_agrees() -> None:
    first = digests()
    assert first == digests()
    assert len(set(first.values())) == len(first), [name for name in first if [*first.values()].count(first[name]) > 1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    code = f"import json, {Path(__file__).stem} as module; print(json.dumps(module.digests()))"
    seed = {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"}
    text = subprocess.check_output([sys.executable, "-c", code], env=environment | seed, text=True)
    assert json.loads(text) == first


def test_compiling_a_module_does_not_change_what_it_is() -> None:
    model = network(0)
    before = identify(model)
    compiled_model = torch.compile(model)
    assert identify(model) == before
    assert identify(compiled_model) == before
    # As Lightning does where it wraps torch.compile, if anything imported it before.
    compiled_model._compile_kwargs = {"dynamic": False}  # type: ignore[attr-defined]
    assert "_compile_kwargs" in vars(model)
    assert identify(compiled_model) == before
    model.scale = 2  # type: ignore[assignment]
    assert identify(compiled_model) != before


def test_what_a_function_refers_to_counts_through_all_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = [level, through_another, decorated(1), compiled, partial(level), Model().apply]
    before = [identify(function) for function in functions]
    assert "variable LEVEL" in before[0].parts
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 4)
    changed = [identify(function) != old for function, old in zip(functions, before, strict=True)]
    assert changed == [True, True, True, True, True, False]
    monkeypatch.setattr(Model, "factor", 3)
    assert identify(Model().apply) != before[-1]
    table = identify(looked_up)
    monkeypatch.setitem(TABLE, "low", [2, 2])
    assert identify(looked_up) != table


def test_a_module_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_settings.py").write_text("LEVEL = 1\ndef shift(x):\n    return x + LEVEL\n")
    import own_settings  # type: ignore[import-not-found]

    def reads(images: Any) -> Any:
        return images * own_settings.LEVEL

    def calls(images: Any) -> Any:
        return own_settings.shift(images)

    before = identify(reads), identify(calls)
    monkeypatch.setattr(own_settings, "LEVEL", 2)
    assert identify(reads) != before[0]
    assert identify(calls) != before[1]


@pytest.mark.parametrize("value", [(number for number in [1]), sys._getframe()])
def test_what_cannot_be_compared_is_named(value: Any) -> None:
    unknown = identify(closed(value)).unknown
    assert unknown is not None
    assert type(value).__qualname__ in unknown
    assert "value" in unknown


def test_a_digest_of_its_own_stands_for_all() -> None:
    model = Model(number for number in [1])
    assert identify(model).unknown is not None
    vars(model)["digest"] = "of 2024"
    assert identify(model).unknown is None
    assert identify(model).parts == {"digest": "of 2024"}
    assert identify(closed(model)).unknown is None


class Stop(Exception):
    pass


def stop_at(calls: int) -> Callable[..., None]:
    """A progress that breaks a run off."""
    left = [calls]

    def progress(*_: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stop

    return progress


OPTIONS: dict[str, Any] = {"tile": 16, "overlap": 0, "batch_size": 1, "creation_options": {"OVERVIEWS": "NONE"}}


def test_an_interrupted_run_goes_on_with_the_same_function_alone(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "in.tif", np.full((1, 48, 48), 9, np.uint8))
    out = tmp_path / "out.tif"
    with pytest.raises(Stop):
        map_raster(partial(scaled, gain=2), scene, out, progress=stop_at(6), **OPTIONS)
    for other in (partial(scaled, gain=3), partial(scaled, 2), scaled, closed(2)):
        with pytest.raises(GeoError, match=r"interrupted run for out\.tif with another function"):
            map_raster(other, scene, out, **OPTIONS)
    times = map_raster(partial(scaled, gain=2), scene, out, **OPTIONS).times
    assert times is not None
    assert times.tiles < 9
    assert map_raster(partial(scaled, gain=2), scene, out, **OPTIONS).times is None
    with pytest.raises(GeoError, match="exists already"):
        map_raster(partial(scaled, gain=3), scene, out, **OPTIONS)


def test_a_function_that_cannot_be_compared_goes_on_with_nothing(tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "in.tif", np.full((1, 48, 48), 9, np.uint8))
    out = tmp_path / "out.tif"
    holder = Model(2)
    vars(holder)["session"] = (number for number in [1])
    with pytest.raises(Stop):
        map_raster(holder, scene, out, progress=stop_at(6), **OPTIONS)
    with pytest.raises(GeoError, match=r"generator \(session\) cannot be compared; give --no-resume"):
        map_raster(holder, scene, out, **OPTIONS)
    times = map_raster(holder, scene, out, resume=False, **OPTIONS).times
    assert times is not None
    assert times.tiles == 9
    with pytest.raises(GeoError, match="exists already"):
        map_raster(holder, scene, out, **OPTIONS)


class Thresholds:
    """A model of the user's own, whose state is a module."""

    def __init__(self, card: Any, seed: int) -> None:
        self.card, self._network = card, network(seed)

    def __call__(self, images: Any) -> TileOutputs:
        yes = (images[:, 0] > 100).astype(np.float32)
        return TileOutputs(maps={"scores": np.stack([1 - yes, yes], axis=1)})


def test_a_model_of_the_users_own_is_its_state(tmp_path: Path) -> None:
    card = make_card(task="segmentation", bands=("a",), mean=(0.0,), std=(1.0,), tile=32, overlap=0)
    scene = write_raster(tmp_path / "in.tif", np.full((1, 64, 64), 200, np.uint8))
    settings = Settings(formats=("tif",))
    assert predict(scene, tmp_path / "out", Thresholds(card, 0), settings=settings).times is not None
    assert predict(scene, tmp_path / "out", Thresholds(card, 0), settings=settings).times is None
    with pytest.raises(GeoError, match="exists already"):
        predict(scene, tmp_path / "out", Thresholds(card, 1), settings=settings)


class Real(float):
    """A number with a state of its own."""

    factor: int

    def __new__(cls, factor: int) -> Real:
        made = super().__new__(cls, 1.0)
        made.factor = factor
        return made


class Scaled:
    """A decorator that is a class."""

    def __init__(self, function: Callable[..., Any], factor: int) -> None:
        functools.update_wrapper(self, function)
        self.factor = factor

    def __call__(self, images: Any) -> Any:
        return images * self.factor


def like_a_library(factor: int) -> Callable[..., Any]:
    if factor == 1:
        made: Callable[..., Any] = lambda images: np.add(images, 1)  # noqa: E731
    else:
        made = lambda images: np.add(images, 2)  # noqa: E731
    made.__module__ = "numpy"  # as functools.wraps does with a function of numpy
    return made


def over(value: Any) -> Callable[..., Any]:
    return lambda images: (images, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (over({"tree": 1, "road": 2}), over({"road": 2, "tree": 1})),
        (
            torch.nn.Sequential(OrderedDict(a=torch.nn.ReLU(), b=torch.nn.Sigmoid())),
            torch.nn.Sequential(OrderedDict(b=torch.nn.Sigmoid(), a=torch.nn.ReLU())),
        ),
        (over(np.ma.array([1, 2], mask=[False, True])), over(np.ma.array([1, 2], mask=[True, False]))),
        (over(Real(1)), over(Real(2))),
        (Scaled(level, 1), Scaled(level, 2)),
        (like_a_library(1), like_a_library(2)),
    ],
    ids=["order of entries", "order of layers", "mask", "subclass of float", "class as decorator", "wraps numpy"],
)
def test_what_only_looks_alike_is_told_apart(one: Any, other: Any) -> None:
    assert identify(one).unknown is identify(other).unknown is None
    assert identify(one).parts != identify(other).parts


@pytest.mark.parametrize("value", [np.zeros((0, 3)), np.array(["2020-01-01"], "M8[D]"), torch.zeros(0, 3)])
def test_arrays_without_a_flat_buffer_have_an_identity(value: Any) -> None:
    assert identify(over(value)) == identify(over(value.copy() if isinstance(value, np.ndarray) else value.clone()))
