"""The selective scan on the CPU: one task scans a group of channel blocks, each as wide as a vector.

A task walks the sequence in chunks. Rows are read side by side for the whole group, so that every access to memory is
a run of neighbouring cache lines; then each block scans its chunk with steps and states in the first- and second-level
caches, while the rows of the next chunk are on their way. The gradient recomputes the states chunk by chunk from states
kept at the chunks' starts, so its memory grows with length / chunk, not with length x states.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._exponentials import LOG2_E, advance_states, exp2, sigmoid, softplus
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
    Launch,
    Variant,
    address,
    describe_sequence,
    load_parameter,
    row_stride,
    run,
    sequence_start,
    thread_count,
    work,
)
from dynamicvis_kernels._simd import (
    BYTES,
    all_at_least,
    lane_count,
    load,
    load_scalar,
    lowest_exponent,
    minimum,
    prefetch,
    splat,
    store,
    store_scalar,
    total,
)

_ROWS = 16  # rows of a forward chunk
_GROUP = 8  # channel blocks of a forward task: with states and rates, its chunk stays in the first-level cache
_USUAL_STATES = 16  # whose number is known when the kernel is compiled; others take a slower loop
_CHUNK = 32  # rows of a backward chunk: its states and decays take 64 KiB at 16 states

_LENGTH, _CHANNELS, _STATES, _SCRATCH, _SCRATCH_SLOT, _A, _D, _BIAS = range(HEADER, HEADER + 8)
_U, _DELTA, _B, _C, _Z, _OUT = range(HEADER + 8, HEADER + 8 + 6 * SEQUENCE, SEQUENCE)
_BLOCKS, _FIRST, _LAST, _STATE, _CONTINUE, _RANK, _PROJECTION = range(_OUT + SEQUENCE, _OUT + SEQUENCE + 7)
_GRAD_U, _GRAD_DELTA, _GRAD_Z, _GRAD_B, _GRAD_C = range(_OUT + SEQUENCE, _OUT + 6 * SEQUENCE, SEQUENCE)
_GRAD_BC_BLOCK, _GRAD_A, _GRAD_D, _GRAD_BIAS = range(_GRAD_C + SEQUENCE, _GRAD_C + SEQUENCE + 4)


@njit(error_model="numpy")
def _fill_rates(p, block, rates, like):
    """The decay rates of one block in units of log2, then their lowest, or -inf where any is not a decay."""
    lanes, scalar = lane_count(like), BYTES // lane_count(like)
    states, last = load_parameter(p, _STATES), load_parameter(p, _CHANNELS) - 1
    lowest, decaying = splat(0.0, like), True
    for lane in range(lanes):
        channel = min(block * lanes + lane, last)  # lanes beyond the last are never stored
        for n in range(states):
            rate = load_scalar(load_parameter(p, _A) + (channel * states + n) * scalar, like)
            store_scalar(rates + n * BYTES + lane * scalar, rate)
    for n in range(states):
        rate = load(rates + n * BYTES, lanes, like) * LOG2_E
        store(rates + n * BYTES, lanes, rate)
        lowest = minimum(lowest, rate)
        decaying = decaying and all_at_least(rate * -1.0, 0.0)
    store(rates + states * BYTES, lanes, lowest if decaying else splat(-np.inf, like))


@njit(forceinline=True, error_model="numpy")
def _advance(states, d, dx, y, b_t, c_t, rates, state, like):
    """Advance the states of one block by one position; returns ``y`` plus their output."""
    lanes, scalar = lane_count(like), BYTES // lane_count(like)
    for n in range(states):
        decay = exp2(d * load(rates + n * BYTES, lanes, like))
        h = decay * load(state + n * BYTES, lanes, like) + dx * load_scalar(b_t + n * scalar, like)
        store(state + n * BYTES, lanes, h)
        y = y + h * load_scalar(c_t + n * scalar, like)
    return y


@njit(forceinline=True, error_model="numpy")
def _advance_usual(states, d, dx, y, b_t, c_t, rates, state, like):
    """`_advance` of the usual number of states, where no decay leaves the normal numbers; without a loop."""
    return advance_states(_USUAL_STATES, d, dx, rates, state, b_t, c_t, y)


@njit(error_model="numpy")
def _project_rows(low_rank, stride, rows, weight, rank, steps, like):
    """Raw steps of one block from their low-rank form; four rows at once share each load of a weight."""
    lanes, scalar = lane_count(like), BYTES // lane_count(like)
    for i in range(0, rows, 4):
        # Beyond the last row it is computed again, into rows of the scratch that nobody reads.
        row0 = low_rank + i * stride
        row1 = low_rank + min(i + 1, rows - 1) * stride
        row2 = low_rank + min(i + 2, rows - 1) * stride
        row3 = low_rank + min(i + 3, rows - 1) * stride
        v0 = splat(0.0, like)
        v1, v2, v3 = v0, v0, v0
        for r in range(rank):
            w = load(weight + r * BYTES, lanes, like)
            v0 = v0 + w * load_scalar(row0 + r * scalar, like)
            v1 = v1 + w * load_scalar(row1 + r * scalar, like)
            v2 = v2 + w * load_scalar(row2 + r * scalar, like)
            v3 = v3 + w * load_scalar(row3 + r * scalar, like)
        store(steps + i * BYTES, lanes, v0)
        store(steps + (i + 1) * BYTES, lanes, v1)
        store(steps + (i + 2) * BYTES, lanes, v2)
        store(steps + (i + 3) * BYTES, lanes, v3)


@njit(error_model="numpy")
def _walk_rows(walk, at, following, skip, advance, like):
    """Scan one block over a chunk."""
    p, direction, block, blocks, rows, width, steps, inputs, rates, state = walk
    b_t, c_t, z_t, out_t = at
    next_u, next_delta, next_z, next_out = following
    lanes, states, rank = lane_count(like), load_parameter(p, _STATES), load_parameter(p, _RANK)
    sign = -1 if direction else 1
    u_stride, delta_stride = sign * row_stride(p, _U), sign * row_stride(p, _DELTA)
    b_stride, c_stride = sign * row_stride(p, _B), sign * row_stride(p, _C)
    z_stride, out_stride = sign * row_stride(p, _Z), sign * row_stride(p, _OUT)
    row = (rows - 1) * BYTES if direction else 0
    # Line by line as they lie in memory, the group's rows of the next chunk are announced while this one computes.
    next_row, next_block = block * rows // blocks, block * rows % blocks
    for _ in range(rows):
        d, x = load(steps + row, lanes, like), load(inputs + row, lanes, like)
        row += sign * BYTES
        lane = next_block * BYTES
        prefetch(next_u + next_row * u_stride + lane)
        if not rank:
            prefetch(next_delta + next_row * delta_stride + lane)
        prefetch(next_out + next_row * out_stride + lane)
        y = advance(states, d, d * x, skip * x, b_t, c_t, rates, state, like)
        if direction:
            prefetch(next_z + next_row * z_stride + lane)
            gate = load(z_t, width, like)
            y = (load(out_t, width, like) + y) * (gate * sigmoid(gate)) * 0.5
        store(out_t, width, y)
        b_t += b_stride
        c_t += c_stride
        z_t += z_stride
        out_t += out_stride
        next_block += 1
        if next_block == blocks:
            next_row, next_block = next_row + 1, 0


@njit(error_model="numpy")
def _forward_task(p, task, slot, like):
    lanes = lane_count(like)
    length, channels, states = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS), load_parameter(p, _STATES)
    all_blocks, group = (channels + lanes - 1) // lanes, load_parameter(p, _BLOCKS)
    groups = (all_blocks + group - 1) // group
    batch, first_block = task // groups, (task % groups) * group
    blocks = min(group, all_blocks - first_block)
    steps = load_parameter(p, _SCRATCH) + slot * load_parameter(p, _SCRATCH_SLOT) + BYTES
    inputs = steps + group * _ROWS * BYTES
    size = (2 * states + 1) * BYTES
    state = load_parameter(p, _STATE) + (batch * all_blocks + first_block) * size
    rates = state + states * BYTES
    rank = load_parameter(p, _RANK)
    skip, bias = load_parameter(p, _D) + first_block * BYTES, load_parameter(p, _BIAS) + first_block * BYTES
    lane = first_block * BYTES
    z, out = sequence_start(p, _Z, 0, batch) + lane, sequence_start(p, _OUT, 0, batch) + lane
    for direction in range(load_parameter(p, _FIRST), load_parameter(p, _LAST)):
        u = sequence_start(p, _U, direction, batch) + lane
        delta = sequence_start(p, _DELTA, direction, batch) + lane
        b, c = sequence_start(p, _B, direction, batch), sequence_start(p, _C, direction, batch)
        if not load_parameter(p, _CONTINUE):
            for k in range(blocks):
                for n in range(states):
                    store(state + k * size + n * BYTES, lanes, splat(0.0, like))
                _fill_rates(p, first_block + k, rates + k * size, like)
        for walked in range(0, length, _ROWS):
            rows = min(_ROWS, length - walked)
            start = length - walked - rows if direction else walked
            if rank:
                low_rank = sequence_start(p, _DELTA, direction, batch) + start * row_stride(p, _DELTA)
                for k in range(blocks):
                    weight = load_parameter(p, _PROJECTION) + (first_block + k) * rank * BYTES
                    _project_rows(low_rank, row_stride(p, _DELTA), rows, weight, rank, steps + k * _ROWS * BYTES, like)
            for i in range(rows):
                u_t = u + (start + i) * row_stride(p, _U)
                delta_t = delta + (start + i) * row_stride(p, _DELTA)
                for k in range(blocks):
                    width = min(lanes, channels - (first_block + k) * lanes)
                    at = (k * _ROWS + i) * BYTES
                    if not rank:
                        store(steps + at, lanes, load(delta_t + k * BYTES, width, like))
                    store(inputs + at, lanes, load(u_t + k * BYTES, width, like))
            first = start + rows - 1 if direction else start
            beyond = first - _ROWS if direction else first + _ROWS
            following = (
                u + beyond * row_stride(p, _U),
                delta + beyond * row_stride(p, _DELTA),
                z + beyond * row_stride(p, _Z),
                out + beyond * row_stride(p, _OUT),
            )
            for k in range(blocks):
                width = min(lanes, channels - (first_block + k) * lanes)
                steps_k, inputs_k = steps + k * _ROWS * BYTES, inputs + k * _ROWS * BYTES
                bias_k = load(bias + k * BYTES, width, like)
                lowest = load(rates + k * size + states * BYTES, lanes, like)
                usual = states == _USUAL_STATES
                for i in range(rows):
                    d = softplus(load(steps_k + i * BYTES, lanes, like) + bias_k)
                    store(steps_k + i * BYTES, lanes, d)
                    usual &= all_at_least(d * lowest, lowest_exponent(like))
                walk = (p, direction, k, blocks, rows, width, steps_k, inputs_k, rates + k * size, state + k * size)
                at = (
                    b + first * row_stride(p, _B),
                    c + first * row_stride(p, _C),
                    z + first * row_stride(p, _Z) + k * BYTES,
                    out + first * row_stride(p, _OUT) + k * BYTES,
                )
                skip_k = load(skip + k * BYTES, width, like)
                if usual:
                    _walk_rows(walk, at, following, skip_k, _advance_usual, like)
                else:
                    _walk_rows(walk, at, following, skip_k, _advance, like)


@njit(error_model="numpy")
def _backward_task(p, task, slot, like):
    lanes, scalar = lane_count(like), BYTES // lane_count(like)
    length, channels, states = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS), load_parameter(p, _STATES)
    blocks = (channels + lanes - 1) // lanes
    batch, block = task // blocks, task % blocks
    scratch = load_parameter(p, _SCRATCH) + slot * load_parameter(p, _SCRATCH_SLOT)
    lane, width = block * BYTES, min(lanes, channels - block * lanes)
    size = states * BYTES
    grad_rates = load_parameter(p, _GRAD_A) + task * size
    grad_state, decays = scratch, scratch + size
    inside = decays + _CHUNK * size
    starts = inside + (_CHUNK + 1) * size
    rates = starts + max(1, (length + _CHUNK - 1) // _CHUNK) * size
    _fill_rates(p, block, rates, like)
    skip = load(load_parameter(p, _D) + lane, width, like)
    bias = load(load_parameter(p, _BIAS) + lane, width, like)
    z, grad_out = sequence_start(p, _Z, 0, batch) + lane, sequence_start(p, _OUT, 0, batch) + lane
    grad_z = sequence_start(p, _GRAD_Z, 0, batch) + lane
    grad_skip, grad_bias = splat(0.0, like), splat(0.0, like)
    for n in range(states):
        store(grad_rates + n * BYTES, lanes, splat(0.0, like))
    for direction in range(2):
        u = sequence_start(p, _U, direction, batch) + lane
        delta = sequence_start(p, _DELTA, direction, batch) + lane
        b, c = sequence_start(p, _B, direction, batch), sequence_start(p, _C, direction, batch)
        grad_u = sequence_start(p, _GRAD_U, direction, batch) + lane
        grad_delta = sequence_start(p, _GRAD_DELTA, direction, batch) + lane
        grad_b = sequence_start(p, _GRAD_B, direction, batch) + block * load_parameter(p, _GRAD_BC_BLOCK)
        grad_c = sequence_start(p, _GRAD_C, direction, batch) + block * load_parameter(p, _GRAD_BC_BLOCK)

        # The states at the chunks' starts.
        chunks = (length + _CHUNK - 1) // _CHUNK
        for n in range(states):
            store(starts + n * BYTES, lanes, splat(0.0, like))
        for chunk in range(chunks - 1):
            source, target = starts + chunk * size, starts + (chunk + 1) * size
            for i in range(chunk * _CHUNK, (chunk + 1) * _CHUNK):
                t = length - 1 - i if direction else i
                d = softplus(load(delta + t * row_stride(p, _DELTA), width, like) + bias)
                dx = d * load(u + t * row_stride(p, _U), width, like)
                b_t = b + t * row_stride(p, _B)
                for n in range(states):
                    decay = exp2(d * load(rates + n * BYTES, lanes, like))
                    h = decay * load(source + n * BYTES, lanes, like) + dx * load_scalar(b_t + n * scalar, like)
                    store(target + n * BYTES, lanes, h)
                source = target

        for n in range(states):
            store(grad_state + n * BYTES, lanes, splat(0.0, like))
        for chunk in range(chunks - 1, -1, -1):
            begin = chunk * _CHUNK
            steps = min(_CHUNK, length - begin)
            # All states and decays of the chunk, and with the outputs the gate's gradient.
            for n in range(states):
                store(inside + n * BYTES, lanes, load(starts + chunk * size + n * BYTES, lanes, like))
            for j in range(steps):
                t = length - 1 - begin - j if direction else begin + j
                x = load(u + t * row_stride(p, _U), width, like)
                d = softplus(load(delta + t * row_stride(p, _DELTA), width, like) + bias)
                dx = d * x
                y = skip * x
                b_t, c_t = b + t * row_stride(p, _B), c + t * row_stride(p, _C)
                for n in range(states):
                    at = j * size + n * BYTES
                    decay = exp2(d * load(rates + n * BYTES, lanes, like))
                    h = decay * load(inside + at, lanes, like) + dx * load_scalar(b_t + n * scalar, like)
                    store(decays + at, lanes, decay)
                    store(inside + size + at, lanes, h)
                    y = y + h * load_scalar(c_t + n * scalar, like)
                gate = load(z + t * row_stride(p, _Z), width, like)
                slope = sigmoid(gate)
                slope = slope * (gate - gate * slope + 1.0)
                gz = load(grad_out + t * row_stride(p, _OUT), width, like) * slope * y * 0.5
                gz_t = grad_z + t * row_stride(p, _GRAD_Z)
                if direction:
                    gz = load(gz_t, width, like) + gz
                store(gz_t, width, gz)
            for j in range(steps - 1, -1, -1):
                t = length - 1 - begin - j if direction else begin + j
                x = load(u + t * row_stride(p, _U), width, like)
                raw = load(delta + t * row_stride(p, _DELTA), width, like) + bias
                d = softplus(raw)
                dx = d * x
                gate = load(z + t * row_stride(p, _Z), width, like)
                gy = load(grad_out + t * row_stride(p, _OUT), width, like) * (gate * sigmoid(gate)) * 0.5
                gdx, gd = splat(0.0, like), splat(0.0, like)
                b_t, c_t = b + t * row_stride(p, _B), c + t * row_stride(p, _C)
                gb_t, gc_t = grad_b + t * row_stride(p, _GRAD_B), grad_c + t * row_stride(p, _GRAD_C)
                for n in range(states):
                    at = j * size + n * BYTES
                    gh = load(grad_state + n * BYTES, lanes, like) + gy * load_scalar(c_t + n * scalar, like)
                    gdx = gdx + gh * load_scalar(b_t + n * scalar, like)
                    store_scalar(gb_t + n * scalar, total(gh * dx))
                    store_scalar(gc_t + n * scalar, total(gy * load(inside + size + at, lanes, like)))
                    gh = gh * load(decays + at, lanes, like)
                    store(grad_state + n * BYTES, lanes, gh)
                    exponent = gh * load(inside + at, lanes, like)
                    gd = gd + exponent * load(rates + n * BYTES, lanes, like)
                    store(grad_rates + n * BYTES, lanes, load(grad_rates + n * BYTES, lanes, like) + exponent * d)
                # The rates carry a factor log2(e); their product with the exponent's gradient sheds it here.
                graw = (gd * (1.0 / LOG2_E) + gdx * x) * sigmoid(raw)
                store(grad_delta + t * row_stride(p, _GRAD_DELTA), width, graw)
                store(grad_u + t * row_stride(p, _GRAD_U), width, gdx * d + gy * skip)
                grad_bias = grad_bias + graw
                grad_skip = grad_skip + gy * x
    store(load_parameter(p, _GRAD_D) + task * BYTES, lanes, grad_skip)
    store(load_parameter(p, _GRAD_BIAS) + task * BYTES, lanes, grad_bias)


def _forward_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _forward_task, variant)

    return kernel


def _backward_kernel(variant: Variant) -> Callable[[int], None]:
    def kernel(p: int) -> None:
        work(p, _backward_task, variant)

    return kernel


class RowScan:
    """Scan of runs of rows: forwards into ``out``, then backwards, which adds what is in ``out``, halves and gates.

    Args:
        u, delta, B, C: ([2,] batch, rows, columns), where a run begins at the first row; without directions, all
            directions see the same memory.
        A: (channels, states), contiguous.
        D, delta_bias: (channels,), contiguous.
        z, out: (batch, length, channels), the whole sequence.
        projection: (blocks, rank, lanes), `pack_rows` of what makes ``delta``'s channels of its ``rank`` columns.
    """

    def __init__(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor,
        z: torch.Tensor,
        delta_bias: torch.Tensor,
        out: torch.Tensor,
        projection: torch.Tensor | None = None,
    ) -> None:
        batch, _, channels = z.shape
        states, lanes = A.shape[1], BYTES // z.element_size()
        blocks = -(-channels // lanes)
        # As many equal groups as the threads can share.
        threads = thread_count(batch * blocks)
        groups = min(blocks, -(-blocks // (_GROUP * threads)) * threads)
        group = -(-blocks // groups)
        tasks = batch * -(-blocks // group)
        scratch = z.new_empty(thread_count(tasks), (1 + 2 * group * _ROWS) * lanes)
        # Hands states and rates from one run to the next.
        carry = z.new_empty(batch, blocks, 2 * states + 1, lanes)
        self._tensors = (u, delta, A, B, C, D, z, delta_bias, out, projection, scratch, carry)
        parameters = [0, channels, states, scratch.data_ptr(), scratch.stride(0) * scratch.element_size()]
        parameters += [address(tensor) for tensor in (A, D, delta_bias)]
        parameters += [value for tensor in (u, delta, B, C, z, out) for value in describe_sequence(tensor)]
        parameters += [group, 0, 0, carry.data_ptr(), 0]
        parameters += [0, 0] if projection is None else [projection.shape[1], address(projection)]
        self._launch = Launch(_forward_kernel, z.dtype, tasks, parameters, slots=scratch.shape[0])
        self._whole = [(index, *describe_sequence(tensor)) for index, tensor in ((_Z, z), (_OUT, out))]

    def __call__(self, rows: tuple[int, int], directions: tuple[int, int], proceed: bool) -> None:
        """Scan from the first of ``rows`` to one before the second, and likewise the directions.

        With ``proceed`` the states go on from the last run instead of from zero.
        """
        self._launch.change(_LENGTH, rows[1] - rows[0])
        for index, start, _, _, stride in self._whole:
            self._launch.change(index, start + rows[0] * stride)
        self._launch.change(_FIRST, *directions)
        self._launch.change(_CONTINUE, proceed)
        self._launch()


def forward(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> torch.Tensor:
    """See `dynamicvis_kernels.selective_scan`."""
    out = z.new_empty(z.shape)
    u, delta, B, C, z = (row_contiguous(tensor) for tensor in (u, delta, B, C, z))
    A, D, delta_bias = A.contiguous(), D.contiguous(), delta_bias.contiguous()
    RowScan(u, delta, A, B, C, D, z, delta_bias, out)((0, z.shape[1]), (0, 2), proceed=False)
    return out


def backward(
    grad: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
) -> list[torch.Tensor]:
    """Gradients of all inputs, in their order, from the gradient of the output."""
    batch, length, channels = z.shape
    states = A.shape[1]
    lanes = BYTES // z.element_size()
    blocks = -(-channels // lanes)
    tasks = batch * blocks
    slot_vectors = states * (3 + 2 * _CHUNK + max(1, -(-length // _CHUNK))) + 1
    scratch = z.new_empty(thread_count(tasks), slot_vectors * lanes)
    A, D, delta_bias = A.contiguous(), D.contiguous(), delta_bias.contiguous()
    grad_u, grad_delta = z.new_empty(u.shape), z.new_empty(u.shape)
    grad_z = z.new_empty(z.shape)
    grad_b = z.new_empty(blocks, 2, batch, length, states)
    grad_c = grad_b.new_empty(grad_b.shape)
    grad_a = z.new_empty(batch, blocks, states, lanes)
    grad_d, grad_bias = z.new_empty(2, batch, blocks * lanes)
    sequences = [row_contiguous(tensor) for tensor in (u, delta, B, C, z, grad)]
    sequences += [grad_u, grad_delta, grad_z, grad_b[0], grad_c[0]]
    parameters = [length, channels, states, scratch.data_ptr(), slot_vectors * BYTES]
    parameters += [address(tensor) for tensor in (A, D, delta_bias)]
    parameters += [value for tensor in sequences for value in describe_sequence(tensor)]
    parameters += [grad_b.stride(0) * grad_b.element_size()]
    parameters += [tensor.data_ptr() for tensor in (grad_a, grad_d, grad_bias)]
    run(_backward_kernel, z.dtype, tasks, parameters, slots=scratch.shape[0])
    grad_A = grad_a.sum(0).transpose(1, 2).reshape(-1, states)[:channels]
    return [
        grad_u,
        grad_delta,
        grad_A,
        grad_b.sum(0),
        grad_c.sum(0),
        grad_d.sum(0)[:channels].clone(),
        grad_z,
        grad_bias.sum(0)[:channels].clone(),
    ]
