"""The single-file model format: safetensors weights with a model card as JSON in the header.

Everything that inference needs besides the weights stands in the card, so that a prediction never depends on
statistics of the scene at hand: bands and their order, normalisation, classes, ground sample distance, tiling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicvis.errors import DynamicVisError
from dynamicvis.files import listing, replacing
from dynamicvis.model_config import config_problem
from dynamicvis.text import is_plain, printable

if TYPE_CHECKING:
    import torch

TASKS = ("detection", "instance_segmentation", "segmentation", "change", "classification", "embedding")
# Where OpenMMLab keeps the models of a task; an embedding needs none of these packages.
OPENMMLAB_PACKAGES = {
    "detection": "mmdet",
    "instance_segmentation": "mmdet",
    "segmentation": "mmseg",
    "change": "mmseg",
    "classification": "mmpretrain",
}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

_HEADER_KEY = "dynamicvis_card"
_WEIGHTS = Path(__file__).parent / "weights"
_LARGEST_HEADER = 32 << 20  # bytes; what a file of 100,000 tensors needs three times over
_LARGEST_CARD = 8 << 20  # characters of JSON
_LONGEST_NAME = 200  # characters of a name of a model, a band, a class or a figure
_LONGEST_TEXT = 4000
_MOST_NAMES = 100_000
_LARGEST_NUMBER = 1e30  # well inside float32, as its inverse is
_LARGEST_WINDOW = 16384  # pixels


class ModelFileError(DynamicVisError):
    """A model file that cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class ModelCard:
    """What a model expects, what it gives, and where it comes from.

    Attributes:
        name: short name, as given to ``--model``.
        task: what it gives, one of `TASKS`: ``"detection"`` boxes, ``"instance_segmentation"`` boxes with masks,
            ``"segmentation"`` a class for every pixel, ``"change"`` a class for every pixel of two dates,
            ``"classification"`` a class for the whole image, ``"embedding"`` a vector for it.
        description: one sentence for a person.
        config: OpenMMLab model config that the weights belong to (without its data preprocessor); of an
            ``"embedding"``, its ``backbone`` alone. What it may hold says `dynamicvis.model_config`.
        bands: names of the input bands, in order; for ``"change"`` those of one date.
        mean, std: normalisation of each of ``bands`` in the units of the raster: ``(value - mean) / std``. For
            ``"change"`` either date's.
        value_range: smallest and largest raster value the normalisation was made for.
        classes, colors: class names, and one ``#rrggbb`` colour each; an ``"embedding"`` has none.
        gsd: ground sample distance of the training imagery, metres per pixel.
        tile, overlap: window edge and overlap of neighbouring windows, pixels of the raster.
        score_threshold: lowest score of an object that is reported, 0 to 1; 0 for tasks without objects.
        training_data, license: provenance and terms.
        metrics: measured figures, by name.
        background: index of the class that is no thing of its own, such as ``"unchanged"``: no polygons are drawn of
            it. None if every class is one.
        scale: factor by which the model wants a window enlarged before it looks; results are in pixels of the raster.
        interpolation: how it is enlarged, one of `INTERPOLATIONS`.
        clip: values outside ``value_range`` are set to its ends first, as in training.
        stride: of the backbone's last map, pixels: windows begin at multiples of it where the tiling allows, so that a
            pixel lies in the same place of the backbone's grid in every window.

    All text is on one line, without control characters; all numbers are finite.

    Raises:
        ModelFileError: a value of another type or out of range, or fields that do not fit each other.
    """

    name: str
    task: str
    description: str
    config: dict[str, Any]
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    gsd: float
    tile: int
    overlap: int
    score_threshold: float
    training_data: str
    license: str
    metrics: dict[str, float]
    background: int | None = None
    scale: float = 1.0
    interpolation: str = "bilinear"
    clip: bool = False
    stride: int = 32

    def __post_init__(self) -> None:
        for field in ("bands", "mean", "std", "value_range", "classes", "colors"):
            if isinstance(getattr(self, field), list | tuple):
                object.__setattr__(self, field, tuple(getattr(self, field)))
        problem = next(self._problems(), None)
        if problem is not None:
            raise ModelFileError(f"model card '{printable(str(self.name))}': {problem}")

    @property
    def task_name(self) -> str:
        """The task in words."""
        return self.task.replace("_", " ")

    @property
    def dates(self) -> int:
        """Number of scenes of one place that the model sees at once."""
        return 2 if self.task == "change" else 1

    @property
    def has_masks(self) -> bool:
        """Whether its objects have masks."""
        return self.task == "instance_segmentation"

    def _problems(self) -> Iterator[str]:
        """What is wrong with the fields; later ones assume that the earlier ones were found right."""
        if not (isinstance(self.task, str) and self.task in TASKS):
            yield f"task must be one of {', '.join(TASKS)}, not '{printable(str(self.task))}'"
        yield from self._text_problems()
        yield from self._number_problems()
        if not (len(self.bands) == len(self.mean) == len(self.std)):
            yield "bands, mean and std differ in length"
        if not self.bands or min(self.std) < 1 / _LARGEST_NUMBER:
            yield "there must be a band, and std must be positive"
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            yield "value_range must be two numbers, the smaller one first"
        if any(
            abs(value - mean) > std * _LARGEST_NUMBER
            for value in self.value_range
            for mean, std in zip(self.mean, self.std, strict=True)
        ):
            yield "std is so small that value_range is beyond all numbers once it is normalised"
        if len(self.classes) != len(self.colors):
            yield "classes and colors differ in length"
        if not self.classes and self.task != "embedding":
            yield f"a model for {self.task} needs classes"
        if self.background is not None and not 0 <= self.background < len(self.classes):
            yield f"background must be the index of one of {len(self.classes)} classes, not {self.background}"
        if not self.scale > 0 or self.interpolation not in INTERPOLATIONS:
            yield f"scale must be positive and interpolation one of {', '.join(INTERPOLATIONS)}"
        if not 1 <= self.tile <= _LARGEST_WINDOW or not 0.5 <= self.tile * self.scale <= _LARGEST_WINDOW:
            yield f"tile, and tile times scale, must be from 1 to {_LARGEST_WINDOW} pixels"
        if not 1 <= self.stride <= _LARGEST_WINDOW:
            yield f"stride must be from 1 to {_LARGEST_WINDOW} pixels, not {self.stride}"
        if not 0 <= self.overlap < self.tile:
            yield "overlap must be at least 0 and less than tile"
        if not 1e-6 <= self.gsd <= 1e7:
            yield f"gsd must be the size of a pixel in metres, from 0.000001 to 10000000, not {self.gsd:g}"
        if not 0 <= self.score_threshold <= 1:
            yield f"score_threshold must be from 0 to 1, not {self.score_threshold:g}"
        if (problem := config_problem(self.config)) is not None:
            yield problem

    def _text_problems(self) -> Iterator[str]:
        if not _is_name(self.name):
            yield f"name must be text of 1 to {_LONGEST_NAME} characters on one line, without control characters"
        for field in ("description", "training_data", "license", "interpolation"):
            value = getattr(self, field)
            if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not is_plain(value):
                yield f"{field} must be a line of text of up to {_LONGEST_TEXT} characters, without control characters"
        for field in ("bands", "classes"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or len(value) > _MOST_NAMES or not all(map(_is_name, value)):
                yield (
                    f"{field} must be a list of names of 1 to {_LONGEST_NAME} characters, each on one line and without "
                    "control characters"
                )
        if not isinstance(self.colors, tuple) or not all(
            isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color) for color in self.colors
        ):
            yield "colors must be a list of colours like #ff8000"

    def _number_problems(self) -> Iterator[str]:
        for field in ("mean", "std", "value_range"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not all(map(is_number, value)):
                yield f"{field} must be a list of finite numbers"
        for field in ("gsd", "score_threshold", "scale"):
            if not is_number(getattr(self, field)):
                yield f"{field} must be a finite number"
        whole = ("tile", "overlap", "stride")
        for field in whole if self.background is None else (*whole, "background"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                yield f"{field} must be a whole number"
        if not isinstance(self.clip, bool):
            yield "clip must be true or false"
        if not isinstance(self.metrics, dict) or not all(
            _is_name(name) and is_number(value) for name, value in self.metrics.items()
        ):
            yield "metrics must hold finite numbers by name"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and is_plain(value)


def is_number(value: Any) -> bool:
    """Whether a card may hold a value as a number: a finite one, no boolean, and not astronomically large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and abs(value) <= _LARGEST_NUMBER if isinstance(value, float) else abs(value) <= 10**15


def save_model(path: str | Path, state_dict: Mapping[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and card to one safetensors file; an existing file is replaced only by a complete one.

    Raises:
        ModelFileError: a weight holds NaN or infinity, or is none.
    """
    from safetensors.torch import save_file

    from dynamicvis.tensors import weight_problem

    for name, value in state_dict.items():
        if (problem := weight_problem(name, value)) is not None:
            raise ModelFileError(f"model '{card.name}' is not written: {printable(name)} {problem}")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={_HEADER_KEY: json.dumps(asdict(card), ensure_ascii=False, allow_nan=False)})


def read_card(path: str | Path) -> ModelCard:
    """Read the card of a model file; its tensors are not touched.

    Raises:
        ModelFileError: the file is missing, truncated, no safetensors file, or holds no valid card: what is wrong with
            the card is named. A field that this version does not know is refused, for it may change what the model is.
    """
    with _open(path) as file:
        header = file.metadata() or {}
    if _HEADER_KEY not in header:
        raise ModelFileError(
            f"{path} holds weights but no model card; give a file written by `dynamicvis export` "
            "or a name listed by `dynamicvis models`"
        )
    try:
        values = _parse(header[_HEADER_KEY])
        known = {field.name: field for field in fields(ModelCard)}
        unknown = sorted(values.keys() - known.keys())
        # What a card of an earlier version lacks has a default.
        missing = [name for name, field in known.items() if name not in values and field.default is MISSING]
        if unknown or missing:
            raise ValueError(f"unknown field '{printable(unknown[0])}'" if unknown else f"it lacks {missing[0]}")
        return ModelCard(**values)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} holds a model card that this version cannot read ({printable(str(error), 500)}); export it again"
        ) from error


def _parse(text: str) -> dict[str, Any]:
    """A dictionary from JSON, strictly: no field twice, no NaN and no infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a field is there twice")
        return values

    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no number")

    if len(text) > _LARGEST_CARD:
        raise ValueError(f"it is longer than {_LARGEST_CARD} characters")
    try:
        values = json.loads(text, object_pairs_hook=unique, parse_constant=refused)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is no dictionary")
    return values


def read_weights(path: str | Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Read the tensors of a model file as float32 (integer buffers keep their type): those whose names begin so.

    Raises:
        ModelFileError: the file is missing, truncated or no safetensors file, or a weight holds NaN or infinity.
    """
    from safetensors import SafetensorError

    from dynamicvis.tensors import weight_problem

    tensors: dict[str, torch.Tensor] = {}
    with _open(path) as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            if not key.startswith(prefix):
                continue
            try:
                value = file.get_tensor(key)
            except (SafetensorError, AttributeError, OSError, RuntimeError, ValueError) as error:
                raise _unreadable(path, error) from error
            tensors[key] = value = value.float() if value.is_floating_point() else value
            if (problem := weight_problem(key, value)) is not None:
                raise ModelFileError(
                    f"{path} holds weights that cannot be used: {printable(key)} {problem}; export it again from a "
                    "checkpoint of a sound run"
                )
    return tensors


def weight_shapes(path: str | Path, prefix: str = "") -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and types (such as ``"F16"`` or ``"I64"``) of the tensors whose names begin so, without reading them.

    Raises:
        ModelFileError: the file is missing, truncated or no safetensors file.
    """
    with _open(path) as file:
        slices = {key: file.get_slice(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        return {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}


def shipped_models() -> dict[str, Path]:
    """Names and paths of the models that come with the package."""
    return {path.stem: path for path in listing(_WEIGHTS, "*.safetensors")}


def find_model(name_or_path: str) -> Path:
    """Path of a shipped model by its name, or of a file.

    Raises:
        ModelFileError: neither a shipped model nor an existing file.
    """
    shipped = shipped_models()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    if re.fullmatch(r"[\w-]+", name_or_path):
        names = ", ".join(shipped) or "none"
        raise ModelFileError(f"no model named '{name_or_path}' and no such file; shipped models: {names}")
    raise ModelFileError(f"model file {name_or_path} does not exist; `dynamicvis models` lists what is shipped")


def _open(path: str | Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
            if size > _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as error:
        raise ModelFileError(f"model file {path} does not exist; `dynamicvis models` lists what is shipped") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"model file {path} is truncated or no safetensors file ({printable(str(error))}); fetch or export it again"
    )
