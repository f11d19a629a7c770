"""The timed benchmarks; each gives rows, smallest input first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarking.agreement import Agreement, check_model, loss
from benchmarking.models import MissingPackageError, build_model
from benchmarking.report import Row
from benchmarking.timing import Timing, failure_note, interleave
from dynamicvis import create_backbone

TRAIN_BATCH = 2
KEEP_RATIO_STEPS = (-2, -1, 0, 1, 2, 3)  # the default ratios times 2**step, at most 1

Calls = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Settings:
    """What all timed benchmarks share; see `benchmarking.timing.interleave`."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    budget: float

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal random numbers, the same ones for the same shape."""
        numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        return numbers.to(self.device, self.dtype)


class Sweep:
    """Contestants over growing inputs, with their agreement and what keeps them out.

    Args:
        settings: see there.
        models: names, in the order of the table.
    """

    def __init__(self, settings: Settings, models: Sequence[str]) -> None:
        self.settings = settings
        self.models = tuple(models)
        self.agreements: dict[str, Agreement] = {}
        self.notes: dict[str, str] = {}

    def attempt(self, name: str, action: Callable[[], Any]) -> Any:
        """Result of building or checking a contestant; None, with a note for its rows, where that cannot be."""
        if name in self.notes:
            return None
        try:
            return action()
        except MissingPackageError as error:
            self.notes[name] = str(error)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            self.notes[name] = failure_note(error)
        return None

    def agree(self, name: str, agreement: Agreement | None) -> None:
        """Record a comparison; one that fails keeps the contestant out."""
        if agreement is not None:
            self.agreements[name] = agreement
            if not agreement.holds:
                self.notes[name] = str(agreement)

    def measure(self, calls: Calls, description: str, warmed: Collection[str] = ()) -> dict[str, Timing | str]:
        """Time all contestants that nothing keeps out.

        Args:
            calls: by name of the contestant.
            description: of the input, such as "1024 pixels".
            warmed: as of `benchmarking.timing.interleave`.
        """
        active = {name: calls[name] for name in self.models if name not in self.notes}
        timings = interleave(active, self.settings.repeats, self.settings.budget, self.settings.device, warmed)
        result: dict[str, Timing | str] = {**self.notes, **timings}
        for name, timing in timings.items():
            if isinstance(timing, str):
                self.notes[name] = f"skipped: at {description}, {timing}"
            elif timing.median > self.settings.budget:
                self.notes[name] = (
                    f"skipped: {description} took {timing.median:.0f} s, over the budget of {self.settings.budget:g} s"
                )
        return result

    def row(self, benchmark: str, name: str, timing: Timing | str, **values: Any) -> Row:
        """The row of one contestant."""
        row = Row(benchmark, name, self.settings.dtype_name, **values)
        return row.with_agreement(self.agreements.get(name)).with_timing(timing)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def backbone(settings: Settings, names: Sequence[str], sizes: Sequence[int]) -> list[Row]:
    """One forward of every model, batch 1, over image sizes."""
    sweep, models = _build(settings, names, gradients=False)
    rows = []
    for size in sizes:
        images = settings.randn(1, 3, size, size)
        calls = {name: _forward(model, images) for name, model in models.items()}
        timings = sweep.measure(calls, f"{size} pixels")
        rows += [
            sweep.row("backbone", name, timings[name], size=size, parameters=_parameters(models, name))
            for name in names
        ]
    return rows


def train_step(settings: Settings, names: Sequence[str], sizes: Sequence[int]) -> list[Row]:
    """Forward, gradient and AdamW step of every model over image sizes."""
    sweep, models = _build(settings, names, gradients=True)
    optimizers = {name: torch.optim.AdamW(model.train().parameters(), lr=1e-5) for name, model in models.items()}
    rows = []
    for size in sizes:
        images = settings.randn(TRAIN_BATCH, 3, size, size)
        calls = {name: _step(model, optimizers[name], images) for name, model in models.items()}
        timings = sweep.measure(calls, f"{size} pixels")
        rows += [
            sweep.row(
                "train-step",
                name,
                timings[name],
                size=size,
                batch=TRAIN_BATCH,
                parameters=_parameters(models, name),
            )
            for name in names
        ]
    return rows


def keep_ratio(settings: Settings, variant: str, size: int) -> list[Row]:
    """One forward over keep ratios: the default ones halved and doubled, up to all tokens, and without selection."""
    default = create_backbone(variant).keep_ratios
    ladder = {f"{variant} x{2.0**step:g}": _scaled(default, 2.0**step) for step in KEEP_RATIO_STEPS}
    dense_name = f"{variant}-dense"
    sweep = Sweep(settings, [*ladder, dense_name])
    model = build_model(variant).to(settings.device, settings.dtype)
    dense = build_model(dense_name).to(settings.device, settings.dtype)
    agreement = sweep.attempt(dense_name, lambda: check_model(variant, settings.dtype, settings.device))
    for name in sweep.models:
        sweep.agree(name, agreement)
    images = settings.randn(1, 3, size, size)
    calls = {name: _forward(model, images, ratios) for name, ratios in ladder.items()}
    calls[dense_name] = _forward(dense, images)
    timings = sweep.measure(calls, f"{size} pixels")
    return [
        sweep.row("keep-ratio", name, timings[name], size=size, keep_ratios=ladder.get(name)) for name in sweep.models
    ]


def _scaled(ratios: Sequence[float | None], factor: float) -> tuple[float, ...]:
    return tuple(min(1.0, ratio * factor) for ratio in ratios if ratio is not None)


def _build(settings: Settings, names: Sequence[str], gradients: bool) -> tuple[Sweep, dict[str, nn.Module]]:
    sweep = Sweep(settings, names)
    models: dict[str, nn.Module] = {}
    for name in names:
        model = sweep.attempt(name, partial(build_model, name))
        if model is not None:
            models[name] = model.to(settings.device, settings.dtype)
        check = partial(check_model, name, settings.dtype, settings.device, gradients)
        sweep.agree(name, sweep.attempt(name, check))
    return sweep, models


def _parameters(models: Mapping[str, nn.Module], name: str) -> int | None:
    return count_parameters(models[name]) if name in models else None


def _forward(
    model: nn.Module, images: torch.Tensor, keep_ratios: Sequence[float] | None = None
) -> Callable[[], object]:
    def call() -> object:
        if keep_ratios is not None:
            model.set_keep_ratios(keep_ratios)  # type: ignore[operator]
        with torch.inference_mode():
            return model(images)

    return call


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> Callable[[], object]:
    def call() -> None:
        optimizer.zero_grad()
        loss(model(images)).backward()
        optimizer.step()

    return call
