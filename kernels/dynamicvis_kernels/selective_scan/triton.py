"""The selective scan in Triton: the sequence is cut into chunks that are scanned side by side.

Forward: a local scan of each chunk from a zero state; a short pass that carries the states over the chunks; the scan
again from the right states, with the outputs. Backward: the same, which keeps the states at short intervals; the first
two passes for the adjoints; then each interval recomputes its states and runs backwards through them.

A program is one warp with a block of channels. The sequence is taken in groups of a few positions, unrolled, so that
their loads are under way together. A scan holds the states of its channels in registers. The backward holds a few
positions instead, with the states in its outer loop, since it needs their states side by side. B and C are packed
beforehand into float32 rows in the order of each direction. States, step sizes and all arithmetic are float32. Sums
over channels and chunks are left as partial sums that torch adds up in a fixed order, so that the result is the same in
every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._triton import Launch, execute
from dynamicvis_kernels.selective_scan import triton_kernels as kernels

_PROGRAMS = 2048  # about four for each scheduler of the largest GPUs
_TILE = 1024  # states that a program scans at most: 32 registers a thread


@dataclass(frozen=True)
class Blocking:
    """How the scan is cut.

    Attributes:
        channels: channels of a program that scans, a power of two.
        gradient_channels: channels of a program that runs backwards, a power of two.
        steps: positions of a group, a power of two.
        groups: groups of a chunk.
    """

    channels: int
    gradient_channels: int
    steps: int
    groups: int


def choose_blocking(batch: int, length: int, channels: int, states: int) -> Blocking:
    """The blocking for a shape.

    At 16 states a thread of a warp of 32 scans 16 states, so that several programs share a scheduler; going backwards
    it takes two channels, which halves the sums across threads. No kernel then spills a register. Chunks are as long as
    leaves enough programs for a large GPU, since each costs one state written and read.
    """
    block = max(16, min(32, _TILE // triton.next_power_of_2(states)))
    steps = 4
    chunks = triton.cdiv(_PROGRAMS, max(1, batch * triton.cdiv(channels, block)))
    return Blocking(block, 64, steps, max(8, triton.cdiv(triton.cdiv(length, steps), chunks)))


class _Problem:
    """Inputs with dense rows, what follows from their shapes, and the passes that both plans share."""

    def __init__(self, inputs: tuple[torch.Tensor, ...], blocking: Blocking | None) -> None:
        u, delta, A, B, C, D, z, delta_bias = inputs
        self.u, self.delta, self.B, self.C, self.z = (row_contiguous(tensor) for tensor in (u, delta, B, C, z))
        self.D, self.delta_bias = D.contiguous(), delta_bias.contiguous()
        self.rates = A.float().t().contiguous()
        self.batch, self.length, self.channels = z.shape
        self.states = A.shape[1]
        self.blocking = blocking or choose_blocking(self.batch, self.length, self.channels, self.states)
        self.groups = triton.cdiv(self.length, self.blocking.steps)
        self.chunks = triton.cdiv(self.groups, self.blocking.groups)
        self.blocks = triton.cdiv(self.channels, self.blocking.channels)
        self.sizes = (
            *(self.batch, self.length, self.channels, self.states),
            *(self.groups, self.blocking.groups, self.chunks),
        )
        self.constants = {
            "STATES": triton.next_power_of_2(self.states),
            "STEPS": self.blocking.steps,
            "BLOCK": self.blocking.channels,
        }
        self.packed = self.empty(2, self.batch, self.groups, self.blocking.steps, 2, self.constants["STATES"])
        self.totals = self.empty(2, self.batch, self.chunks, self.channels)

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.z.device)

    def pack(self) -> Launch:
        return Launch(
            "pack B and C",
            kernels.pack_kernel,
            (2 * self.batch * self.groups,),
            (
                *(self.B, self.C, self.packed, *self.B.stride()[:3], *self.C.stride()[:3]),
                *(self.batch, self.length, self.states, self.groups),
            ),
            {name: self.constants[name] for name in ("STATES", "STEPS")},
            num_warps=1,
        )

    def boundary_states(self, grad: torch.Tensor | None) -> tuple[list[Launch], torch.Tensor]:
        """Launches that give the state, or with the output's gradient the adjoint, with which each chunk starts."""
        shape = (2, self.batch, self.chunks, self.states, self.channels)
        if self.chunks <= 1:
            return [], torch.zeros(shape, dtype=torch.float32, device=self.z.device)
        name, states, adjoint = "states" if grad is None else "adjoints", self.empty(*shape), grad is not None
        drive, drive_strides = (self.u, self.u.stride()[:3]) if grad is None else (grad, (0, *grad.stride()[:2]))
        scan = Launch(
            f"{name} of chunks",
            kernels.chunk_states_kernel,
            (2 * self.batch * self.chunks * self.blocks,),
            (
                *(drive, self.z, self.delta, self.packed, self.rates, self.delta_bias, states, self.totals),
                *(*drive_strides, *self.z.stride()[:2], *self.delta.stride()[:3]),
                *(*self.sizes, self.blocks),
            ),
            {"ADJOINT": adjoint, **self.constants},
            num_warps=1,
        )
        carry = Launch(
            f"{name} carried",
            kernels.carry_kernel,
            (2 * self.batch * self.states * self.blocks,),
            (states, self.totals, self.rates, self.batch, self.channels, self.states, self.chunks, self.blocks),
            {"ADJOINT": adjoint, "BLOCK": self.blocking.channels},
            num_warps=1,
        )
        return [scan, carry], states

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(stride for tensor in (self.u, self.delta, self.z) for stride in tensor.stride()[:-1])

    def outputs(
        self, states: torch.Tensor, out: torch.Tensor, grad: torch.Tensor | None, starts: torch.Tensor
    ) -> Launch:
        """The launch that writes the output, or with its gradient that of z and the states before every group."""
        # The first direction's y waits in the output itself if its type holds it.
        partial = out if out.dtype == torch.float32 else self.empty(*out.shape)
        return Launch(
            "outputs" if grad is None else "gradient of z",
            kernels.output_kernel,
            (self.batch * self.chunks * self.blocks,),
            (
                *(self.u, self.delta, self.z, self.packed, self.rates, self.D, self.delta_bias),
                *(states, partial, out, self.z if grad is None else grad, starts),
                *self.strides,
                *(self.z if grad is None else grad).stride()[:2],
                *(*self.sizes, self.blocks),
            ),
            {"BACKWARD": grad is not None, **self.constants},
            num_warps=1,
        )


def plan_forward(*inputs: torch.Tensor, blocking: Blocking | None = None) -> tuple[list[Launch], torch.Tensor]:
    """Launches that compute the output, and the output; inputs as of `dynamicvis_kernels.selective_scan`."""
    problem = _Problem(inputs, blocking)
    launches, states = problem.boundary_states(None)
    out = torch.empty(problem.z.shape, dtype=problem.z.dtype, device=problem.z.device)
    return [problem.pack(), *launches, problem.outputs(states, out, None, states)], out


def plan_backward(
    grad: torch.Tensor, *inputs: torch.Tensor, blocking: Blocking | None = None
) -> tuple[list[Launch], Callable[[], list[torch.Tensor]]]:
    """Launches that compute partial gradients, and the function that ends in the gradients of all inputs."""
    problem = _Problem(inputs, blocking)
    grad = row_contiguous(grad)
    launches, states = problem.boundary_states(None)
    adjoint_launches, adjoints = problem.boundary_states(grad)
    u, z = problem.u, problem.z
    grad_u, grad_delta = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
    grad_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    starts = problem.empty(2, problem.batch, problem.groups, problem.states, problem.channels)
    blocks = triton.cdiv(problem.channels, problem.blocking.gradient_channels)
    grad_packed = problem.empty(blocks, *problem.packed.shape)
    parts = 2 * problem.batch * problem.chunks
    grad_rates = problem.empty(parts, problem.states, problem.channels)
    grad_skip, grad_bias = (problem.empty(parts, problem.channels) for _ in range(2))
    gradient = Launch(
        "gradients",
        kernels.gradient_kernel,
        (parts * blocks,),
        (
            *(grad, u, problem.delta, z, problem.packed, problem.rates, problem.D, problem.delta_bias),
            *(starts, adjoints, grad_u, grad_delta, grad_packed, grad_rates, grad_skip, grad_bias),
            *grad.stride()[:2],
            *problem.strides,
            *(*problem.sizes, blocks),
        ),
        {**problem.constants, "BLOCK": problem.blocking.gradient_channels},
        num_warps=1,
    )
    outputs = problem.outputs(states, grad_z, grad, starts)
    _, _, A, B, C, D, _, delta_bias = inputs

    def finish() -> list[torch.Tensor]:
        rows = grad_packed.sum(0)[..., : problem.states]
        rows = torch.stack([rows[0], rows[1].flip(2)]).flatten(2, 3)[:, :, : problem.length]
        return [
            grad_u,
            grad_delta,
            grad_rates.sum(0).t().to(A.dtype).contiguous(),
            rows[:, :, :, 0].to(B.dtype).contiguous(),
            rows[:, :, :, 1].to(C.dtype).contiguous(),
            grad_skip.sum(0).to(D.dtype),
            grad_z,
            grad_bias.sum(0).to(delta_bias.dtype),
        ]

    return [problem.pack(), *launches, *adjoint_launches, outputs, gradient], finish


def forward(*inputs: torch.Tensor) -> torch.Tensor:
    """See `dynamicvis_kernels.selective_scan`."""
    launches, output = plan_forward(*inputs)
    execute(launches)
    return output


def backward(grad: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of all inputs, in their order, from the gradient of the output."""
    launches, finish = plan_backward(grad, *inputs)
    execute(launches)
    return finish()
