"""The single-file model format: safetensors weights with a model card as JSON in the header.

Everything that inference needs besides the weights stands in the card, so that a prediction never depends on
statistics of the scene at hand: bands and their order, normalisation, classes, ground sample distance, tiling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicvis.files import replacing

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


class ModelFileError(ValueError):
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
            ``"embedding"``, its ``backbone`` alone.
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

    Raises:
        ModelFileError: a value out of range, or fields that do not fit each other.
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

    def __post_init__(self) -> None:
        for field in ("bands", "mean", "std", "value_range", "classes", "colors"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        problem = self._problem()
        if problem is not None:
            raise ModelFileError(f"model card '{self.name}': {problem}")

    def _problem(self) -> str | None:
        if self.task not in TASKS:
            return f"task must be one of {', '.join(TASKS)}, not '{self.task}'"
        if not (len(self.bands) == len(self.mean) == len(self.std)):
            return "bands, mean and std differ in length"
        if not self.bands or min(self.std) <= 0:
            return "there must be a band, and std must be positive"
        if len(self.classes) != len(self.colors):
            return "classes and colors differ in length"
        if not self.classes and self.task != "embedding":
            return f"a model for {self.task} needs classes"
        if not 0 <= self.overlap < self.tile:
            return "overlap must be at least 0 and less than tile"
        if self.background is not None and not 0 <= self.background < len(self.classes):
            return f"background must be the index of one of {len(self.classes)} classes, not {self.background}"
        if not self.scale > 0 or self.interpolation not in INTERPOLATIONS:
            return f"scale must be positive and interpolation one of {', '.join(INTERPOLATIONS)}"
        return None


def save_model(path: str | Path, state_dict: Mapping[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and card to one safetensors file; an existing file is replaced only by a complete one."""
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={_HEADER_KEY: json.dumps(asdict(card), ensure_ascii=False)})


def read_card(path: str | Path) -> ModelCard:
    """Read the card of a model file; its tensors are not touched.

    Raises:
        ModelFileError: the file is missing, truncated, no safetensors file, or holds no valid card.
    """
    with _open(path) as file:
        header = file.metadata() or {}
    if _HEADER_KEY not in header:
        raise ModelFileError(
            f"{path} holds weights but no model card; give a file written by tools/export_model.py "
            "or a name listed by `dynamicvis models`"
        )
    try:
        values = json.loads(header[_HEADER_KEY])
        # What a card of an earlier version lacks has a default.
        names = [field.name for field in fields(ModelCard) if field.name in values or field.default is MISSING]
        return ModelCard(**{name: values[name] for name in names})
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} holds a model card that this version cannot read ({error}); export it again"
        ) from error


def read_weights(path: str | Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Read the tensors of a model file as float32 (integer buffers keep their type): those whose names begin so.

    Raises:
        ModelFileError: the file is missing, truncated or no safetensors file.
    """
    with _open(path) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118 - no mapping
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def shipped_models() -> dict[str, Path]:
    """Names and paths of the models that come with the package."""
    return {path.stem: path for path in sorted(_WEIGHTS.glob("*.safetensors"))}


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
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as error:
        raise ModelFileError(f"model file {path} does not exist; `dynamicvis models` lists what is shipped") from error
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"model file {path} is truncated or no safetensors file ({error}); fetch or export it again"
        ) from error
