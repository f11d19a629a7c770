"""The selective scan on the CPU: one task scans a block of channels, as wide as a vector, in both directions.

The states of a block stay in the first-level cache for the whole sequence. The gradient recomputes them chunk by chunk
from states kept at the chunks' starts, so its memory grows with length / chunk, not with length x states.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch.nn import functional as F

from dynamicvis_kernels._backend import row_contiguous
from dynamicvis_kernels._parallel import (
    HEADER,
    SEQUENCE,
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
    LOG2_E,
    exp2,
    lane_count,
    load,
    load_scalar,
    sigmoid,
    softplus,
    splat,
    store,
    store_scalar,
    total,
)

_CHUNK = 32  # states and decays of a chunk take 64 KiB at 16 states: within any second-level cache

_LENGTH, _CHANNELS, _STATES, _SCRATCH, _SCRATCH_SLOT, _A, _D, _BIAS = range(HEADER, HEADER + 8)
_U, _DELTA, _B, _C, _Z, _OUT = range(HEADER + 8, HEADER + 8 + 6 * SEQUENCE, SEQUENCE)
_GRAD_U, _GRAD_DELTA, _GRAD_Z, _GRAD_B, _GRAD_C = range(_OUT + SEQUENCE, _OUT + 6 * SEQUENCE, SEQUENCE)
_GRAD_BC_BLOCK, _GRAD_A, _GRAD_D, _GRAD_BIAS = range(_GRAD_C + SEQUENCE, _GRAD_C + SEQUENCE + 4)


@njit(error_model="numpy")
def _forward_task(p, task, slot, like):
    lanes, scalar = lane_count(like), BYTES // lane_count(like)
    length, channels, states = load_parameter(p, _LENGTH), load_parameter(p, _CHANNELS), load_parameter(p, _STATES)
    blocks = (channels + lanes - 1) // lanes
    batch, block = task // blocks, task % blocks
    lane, width = block * BYTES, min(lanes, channels - block * lanes)
    state = load_parameter(p, _SCRATCH) + slot * load_parameter(p, _SCRATCH_SLOT)
    rates = load_parameter(p, _A) + block * states * BYTES
    skip = load(load_parameter(p, _D) + lane, width, like)
    bias = load(load_parameter(p, _BIAS) + lane, width, like)
    z, out = sequence_start(p, _Z, 0, batch) + lane, sequence_start(p, _OUT, 0, batch) + lane
    for direction in range(2):
        u = sequence_start(p, _U, direction, batch) + lane
        delta = sequence_start(p, _DELTA, direction, batch) + lane
        b, c = sequence_start(p, _B, direction, batch), sequence_start(p, _C, direction, batch)
        for n in range(states):
            store(state + n * BYTES, lanes, splat(0.0, like))
        for i in range(length):
            t = length - 1 - i if direction else i
            x = load(u + t * row_stride(p, _U), width, like)
            d = softplus(load(delta + t * row_stride(p, _DELTA), width, like) + bias)
            dx = d * x
            y = skip * x
            b_t, c_t = b + t * row_stride(p, _B), c + t * row_stride(p, _C)
            for n in range(states):
                decay = exp2(d * load(rates + n * BYTES, lanes, like))
                h = decay * load(state + n * BYTES, lanes, like) + dx * load_scalar(b_t + n * scalar, like)
                store(state + n * BYTES, lanes, h)
                y = y + h * load_scalar(c_t + n * scalar, like)
            out_t = out + t * row_stride(p, _OUT)
            if direction:
                gate = load(z + t * row_stride(p, _Z), width, like)
                y = (load(out_t, width, like) + y) * (gate * sigmoid(gate)) * 0.5
            store(out_t, width, y)


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
    rates = load_parameter(p, _A) + block * size
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


def _forward_float32(p: int) -> None:
    work(p, _forward_task, np.float32(0))


def _forward_float64(p: int) -> None:
    work(p, _forward_task, np.float64(0))


def _backward_float32(p: int) -> None:
    work(p, _backward_task, np.float32(0))


def _backward_float64(p: int) -> None:
    work(p, _backward_task, np.float64(0))


_FORWARD = {torch.float32: _forward_float32, torch.float64: _forward_float64}
_BACKWARD = {torch.float32: _backward_float32, torch.float64: _backward_float64}


def _blocked_rates(A: torch.Tensor, lanes: int) -> torch.Tensor:
    """(channels, states) -> (blocks, states, lanes), in units of log2, missing channels zero."""
    padded = F.pad(A * LOG2_E, (0, 0, 0, -A.shape[0] % lanes))
    return padded.view(-1, lanes, A.shape[1]).transpose(1, 2).contiguous()


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
    batch, length, channels = z.shape
    states = A.shape[1]
    out = torch.empty(z.shape, dtype=z.dtype)
    lanes = BYTES // z.element_size()
    rates = _blocked_rates(A, lanes)
    tasks = batch * rates.shape[0]
    scratch = torch.empty(thread_count(tasks), states * lanes, dtype=z.dtype)
    D, delta_bias = D.contiguous(), delta_bias.contiguous()
    sequences = [row_contiguous(tensor) for tensor in (u, delta, B, C, z)] + [out]
    parameters = [length, channels, states, scratch.data_ptr(), states * BYTES]
    parameters += [tensor.data_ptr() for tensor in (rates, D, delta_bias)]
    parameters += [value for tensor in sequences for value in describe_sequence(tensor)]
    run(_FORWARD[z.dtype], tasks, parameters)
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
    states, dtype = A.shape[1], z.dtype
    lanes = BYTES // z.element_size()
    rates = _blocked_rates(A, lanes)
    blocks = rates.shape[0]
    tasks = batch * blocks
    slot_vectors = states * (2 + 2 * _CHUNK + max(1, -(-length // _CHUNK)))
    scratch = torch.empty(thread_count(tasks), slot_vectors * lanes, dtype=dtype)
    D, delta_bias = D.contiguous(), delta_bias.contiguous()
    grad_u, grad_delta = torch.empty(u.shape, dtype=dtype), torch.empty(u.shape, dtype=dtype)
    grad_z = torch.empty(z.shape, dtype=dtype)
    grad_b = torch.empty(blocks, 2, batch, length, states, dtype=dtype)
    grad_c = torch.empty_like(grad_b)
    grad_a = torch.empty(batch, blocks, states, lanes, dtype=dtype)
    grad_d, grad_bias = torch.empty(2, batch, blocks * lanes, dtype=dtype)
    sequences = [row_contiguous(tensor) for tensor in (u, delta, B, C, z, grad)]
    sequences += [grad_u, grad_delta, grad_z, grad_b[0], grad_c[0]]
    parameters = [length, channels, states, scratch.data_ptr(), slot_vectors * BYTES]
    parameters += [tensor.data_ptr() for tensor in (rates, D, delta_bias)]
    parameters += [value for tensor in sequences for value in describe_sequence(tensor)]
    parameters += [grad_b.stride(0) * grad_b.element_size()]
    parameters += [tensor.data_ptr() for tensor in (grad_a, grad_d, grad_bias)]
    run(_BACKWARD[dtype], tasks, parameters)
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
