"""Does a fast result equal the readable one? Asked in the run that reports the speed."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from benchmarking.models import REFERENCE, build_backbone, use_reference_mixers, variant_of

CHECK_SIZE = 128
GRADIENT_CHECK_SIZE = 64

# Largest deviation as a fraction of the tensor's largest magnitude. A model adds the rounding of some 30 blocks, each
# a chain of four products, to that of the operator; its gradients are sums over all tokens on top of that.
OPERATOR_TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
MODEL_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
GRADIENT_TOLERANCES = {dtype: 10 * tolerance for dtype, tolerance in MODEL_TOLERANCES.items()}


@dataclass(frozen=True)
class Agreement:
    """Largest deviation from another implementation.

    Attributes:
        against: the other implementation.
        error: largest absolute difference divided by the largest magnitude; infinite where a value is not finite.
        tolerance: what rounding may explain.
    """

    against: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"disagrees with {self.against}: error {self.error:.1e}, tolerance {self.tolerance:.0e}"


def relative_error(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Worst of the tensors' largest absolute difference divided by the expected tensor's largest magnitude.

    Infinite where a value is not finite, or where an expected tensor is all zero and the actual one is not.
    """
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        difference, magnitude = float((a.double() - e.double()).abs().max()), float(e.abs().max())
        if not math.isfinite(difference):
            return math.inf
        if difference > 0:
            worst = max(worst, difference / magnitude if magnitude > 0 else math.inf)
    return worst


@contextmanager
def naive_kernels() -> Iterator[None]:
    """Run the operators in plain torch."""
    previous = os.environ.get("DYNAMICVIS_BACKEND")
    os.environ["DYNAMICVIS_BACKEND"] = "naive"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["DYNAMICVIS_BACKEND"]
        else:
            os.environ["DYNAMICVIS_BACKEND"] = previous


def wide(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors in at least float32: in half precision a naive recurrence or a sum is no measure of anything."""
    return [tensor.to(_wide_dtype(tensor.dtype)) for tensor in tensors]


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.itemsize >= 4 else torch.float32


def check_model(name: str, dtype: torch.dtype, device: torch.device, gradients: bool = False) -> Agreement | None:
    """Compare a backbone with the naive kernels, or the reference's way with ours, at a small size.

    With selection the mixers' share of the result is scaled by the scores, about one over the number of tokens; so the
    same weights are also compared without selection, where it counts in full.

    Args:
        name: model of `benchmarking.models.build_model`.
        gradients: compare the parameters' gradients instead of the outputs.

    Returns:
        The worse of both comparisons, or None for a model that is not made from a variant.

    Raises:
        MissingPackageError: the reference's way needs a package that is not installed.
        ValueError: no kernel for the type or device.
    """
    variant = variant_of(name)
    if variant is None:
        return None
    reference = name.endswith(REFERENCE)
    size = GRADIENT_CHECK_SIZE if gradients else CHECK_SIZE
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, dtype)
    tolerance = (GRADIENT_TOLERANCES if gradients else MODEL_TOLERANCES)[dtype]
    if reference:  # its scan computes in float32 whatever the type
        tolerance = max(tolerance, (GRADIENT_TOLERANCES if gradients else MODEL_TOLERANCES)[torch.float32])
    results = _gradients if gradients else _outputs
    errors = []
    for dense in (False, True):
        ours = build_backbone(variant, dense).to(device, dtype)
        ours.noise = 0.0
        if reference:
            other = use_reference_mixers(copy.deepcopy(ours))
            errors.append(relative_error(results(other, images), results(ours, images)))
        else:
            with naive_kernels():
                expected = results(copy.deepcopy(ours).to(_wide_dtype(dtype)), *wide([images]))
            errors.append(relative_error(results(ours, images), expected))
    return Agreement(variant if reference else "naive", max(errors), tolerance)


def _outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(model(images))


def _gradients(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    loss(model.train()(images)).backward()
    # Modules are registered in another order in the reference's way, so gradients are paired by what they belong to.
    gradients = {
        key.replace("mixer.mixer.", "mixer.").replace("mixer.norm.", "norm."): parameter.grad
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return [gradients[key] for key in sorted(gradients)]


def loss(outputs: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """A stand-in for a task's loss: mean of the outputs weighted with a ramp from -1 to 1.

    A mean square would not do: after a layer norm it is almost constant, and its gradients all but cancel.
    """
    maps = wide([outputs] if isinstance(outputs, torch.Tensor) else outputs)
    return torch.stack([(values.flatten() * _ramp(values)).mean() for values in maps]).sum()


def _ramp(values: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, values.numel(), dtype=values.dtype, device=values.device)
