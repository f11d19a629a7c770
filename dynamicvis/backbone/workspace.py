"""Memory that the blocks of one forward share."""

from __future__ import annotations

import math

import torch
from dynamicvis_kernels import choose_backend
from dynamicvis_kernels._backend import PLAIN_TYPES, is_followed


class Workspace:
    """Buffers by name, kept from block to block, and what one block computes for the next.

    A buffer of tens of megabytes that is made anew costs a page fault for each of its pages: at 2048x2048 pixels a
    third of a whole forward. Only for inference, where nothing refers to the buffer of an earlier block.

    Attributes:
        scores: (batch, length), of the tokens as the last block left them, by the next block's router, while the buffer
            "means" holds the means of the grid's rows; None if they are not known.
    """

    def __init__(self) -> None:
        self.scores: torch.Tensor | None = None
        self._buffers: dict[str, torch.Tensor] = {}

    @staticmethod
    def usable(images: torch.Tensor) -> bool:
        """Whether a forward may overwrite its intermediate results: on the CPU's kernels, and nothing follows it."""
        return (
            not torch.is_grad_enabled()
            and type(images) in PLAIN_TYPES
            and not is_followed()
            and not torch.is_autocast_enabled(images.device.type)
            and images.dtype in (torch.float32, torch.float64)
            and choose_backend(images.device) == "cpu"
        )

    def empty(self, name: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        """Uninitialised tensor, of the type of ``like``, in the buffer ``name``, whose former content is lost."""
        count = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < count:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = like.new_empty(count)
        return buffer[:count].view(shape)

    def linear(self, name: str, tokens: torch.Tensor, weight: torch.Tensor, leading: int = 0) -> torch.Tensor:
        """``F.linear`` without bias of (batch, length, channels) into the buffer ``name``.

        The first ``leading`` tokens are left out, and what stands in their places is anything.
        """
        out = self.empty(name, (*tokens.shape[:-1], weight.shape[0]), tokens)
        if leading and tokens.shape[0] == 1:
            torch.mm(tokens[0, leading:], weight.t(), out=out[0, leading:])
        elif leading:
            for source, target in zip(tokens[:, leading:], out[:, leading:], strict=True):
                torch.mm(source, weight.t(), out=target)
        else:
            torch.mm(tokens.flatten(0, 1), weight.t(), out=out.flatten(0, 1))
        return out
