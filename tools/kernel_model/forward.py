"""One forward of the backbone as a list of operations, traced on tensors without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dynamicvis import create_backbone
from kernel_model.chips import Chip

# Of the published rates, what a well-tuned library is taken to reach.
TENSOR_FRACTION = 0.5
BANDWIDTH_FRACTION = 0.8
LAUNCH_SECONDS = 4e-6
# A top-k over a whole row of tokens, sorted, is a radix sort: one pass for each byte of key, twice.
_PASSES = {"topk": 8, "sort": 8}
_GROUPS = {
    "convolution": "patch convolutions",
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), "linear layers"),
    **dict.fromkeys(("topk", "sort"), "top-k"),
}


@dataclass(frozen=True)
class Operation:
    """One operation of torch's own.

    Attributes:
        group: row of the report.
        flops: on the matrix units.
        bytes: read and written, each tensor once.
    """

    group: str
    flops: int
    bytes: int

    def seconds(self, chip: Chip) -> float:
        """Modelled time: the larger of matrix time and memory time, and no less than a launch takes."""
        matrix = self.flops / (TENSOR_FRACTION * chip.tensor)
        return max(matrix, self.bytes / (BANDWIDTH_FRACTION * chip.bandwidth), LAUNCH_SECONDS)


@dataclass(frozen=True)
class OperatorCall:
    """A call of one of our operators; the tensors of a finished trace are on the device ``meta``."""

    name: str
    arguments: tuple[Any, ...]


def trace_forward(variant: str, size: int) -> list[Operation | OperatorCall]:
    """Operations of one forward at (1, 3, size, size) in bfloat16 on CUDA, without a GPU, memory or computation.

    Args:
        variant: name of the backbone.
        size: edge of the image in pixels, which is also the one that the position embedding is made for.
    """
    with torch.device("meta"):
        backbone = create_backbone(variant, img_size=size).eval()
    recorder = _Recorder()
    with FakeTensorMode(), torch.no_grad():
        state = {
            name: torch.empty(tensor.shape, dtype=torch.bfloat16, device="cuda")
            for name, tensor in backbone.named_parameters()
        }
        images = torch.empty(1, 3, size, size, dtype=torch.bfloat16, device="cuda")
        with recorder:
            torch.func.functional_call(backbone, state, (images,))
    # Outside of the mode, so that the tensors are real ones, of the device meta.
    return [_to_meta_call(item) if isinstance(item, OperatorCall) else item for item in recorder.operations]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation | OperatorCall] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        inputs, outputs = _tensors((*args, *(kwargs or {}).values())), _tensors([output])
        name = function._schema.name.partition("::")[2]
        if function.namespace == "dynamicvis":
            self.operations.append(OperatorCall(name, tuple(args)))
        elif function.namespace == "aten" and "empty" not in name and not _is_view(function, inputs, outputs):
            flops = flop_registry.get(function._overloadpacket)
            moved = sum(_bytes(tensor) for tensor in (*inputs, *outputs))
            self.operations.append(
                Operation(
                    _GROUPS.get(name, "norms, softmax, sums, copies"),
                    flops(*args, **(kwargs or {}), out_val=output) if flops else 0,
                    moved * _PASSES.get(name, 1),
                )
            )
        return output


def _tensors(values: Sequence[Any]) -> list[torch.Tensor]:
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    return [item for item in flat if isinstance(item, torch.Tensor)]


def _is_view(function: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    """Whether nothing moves: the outputs lie in the memory of an input, and the operation does not write."""
    held = {tensor.untyped_storage()._cdata for tensor in inputs}
    return not function._schema.is_mutable and all(tensor.untyped_storage()._cdata in held for tensor in outputs)


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's distinct elements: an expanded dimension counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


def _to_meta_call(call: OperatorCall) -> OperatorCall:
    return OperatorCall(call.name, tuple(_to_meta(a) if isinstance(a, torch.Tensor) else a for a in call.arguments))


def _to_meta(argument: torch.Tensor) -> torch.Tensor:
    """The same view of a new storage."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(argument.shape, argument.stride(), strict=True))
    storage = torch.empty(argument.storage_offset() + span, dtype=argument.dtype, device="meta")
    return storage.as_strided(argument.shape, argument.stride(), argument.storage_offset())
