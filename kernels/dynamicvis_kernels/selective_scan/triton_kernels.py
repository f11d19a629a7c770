"""The kernels of the selective scan in Triton; `triton.py` beside it says how they work together."""

# ruff: noqa: RUF005  -- Triton concatenates tuples, and knows no unpacking
from __future__ import annotations

import triton
import triton.language as tl

from dynamicvis_kernels._triton import LOG2_E, sigmoid, softplus

_CARRY_GROUP = tl.constexpr(16)  # chunk states loaded at once by the pass over the chunks


@triton.jit
def _program(blocks, parts):
    """The program's block of channels, its part of the sequence or state, and its row; 64 bits wide for offsets."""
    program = tl.program_id(0)
    block, rest = program % blocks, program // blocks
    return block.to(tl.int64), (rest % parts).to(tl.int64), (rest // parts).to(tl.int64)


@triton.jit
def _lanes(block, channels, states, STATES: tl.constexpr, BLOCK: tl.constexpr):
    """Channels of a block and their mask; states, offsets of (states, channels) and their mask."""
    lane = block * BLOCK + tl.arange(0, BLOCK)
    inside = lane < channels
    n = tl.arange(0, STATES)
    return lane, inside, n, n[:, None] * channels + lane[None, :], (n < states)[:, None] & inside[None, :]


@triton.jit
def _group(index, direction, length, STEPS: tl.constexpr):
    """First position of a group in the order of the direction, its offset in the group, and positions it really has."""
    offset = (STEPS - 1) * direction
    return index * STEPS + offset, offset, tl.minimum(length - index * STEPS, STEPS).to(tl.int32)


@triton.jit
def _load(pointer, jump, offset, step, count, inside, STEPS: tl.constexpr):
    """A tuple of STEPS rows of a block of channels in float32, zero beyond the sequence."""
    rows = ()
    for i in tl.static_range(STEPS):
        rows = rows + (tl.load(pointer, mask=inside & (offset + step * i < count), other=0.0).to(tl.float32),)
        pointer += jump
    return rows


@triton.jit
def _load_scalars(pointer, jump: tl.constexpr, STEPS: tl.constexpr):
    scalars = ()
    for i in tl.static_range(STEPS):
        scalars = scalars + (tl.load(pointer + jump * i),)
    return scalars


@triton.jit
def _load_sizes(pointer, jump, offset, step, count, bias, inside, STEPS: tl.constexpr):
    """softplus(delta + bias), zero beyond the sequence: there the state stays as it is."""
    rows = _load(pointer, jump, offset, step, count, inside, STEPS)
    sizes = ()
    for i in tl.static_range(STEPS):
        sizes = sizes + (tl.where(offset + step * i < count, softplus(rows[i] + bias), 0.0),)
    return sizes


@triton.jit
def _multiply(left, right, STEPS: tl.constexpr):
    products = ()
    for i in tl.static_range(STEPS):
        products = products + (left[i] * right[i],)
    return products


@triton.jit
def _load_grad_y(grad, grad_jump, z, z_jump, offset, step, count, inside, STEPS: tl.constexpr):
    """Gradient of one direction's y: half of the output's, times silu(z)."""
    grads = _load(grad, grad_jump, offset, step, count, inside, STEPS)
    gates = _load(z, z_jump, offset, step, count, inside, STEPS)
    rows = ()
    for i in tl.static_range(STEPS):
        rows = rows + (0.5 * grads[i] * gates[i] * sigmoid(gates[i]),)
    return rows


@triton.jit
def pack_kernel(
    b_ptr,
    c_ptr,
    packed_ptr,
    b_direction,
    b_batch,
    b_row,
    c_direction,
    c_batch,
    c_row,
    batch,
    length,
    states,
    groups,
    STATES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """B and C as (2, batch, groups, STEPS, 2, STATES), each direction in its own order, padded with zero."""
    program = tl.program_id(0).to(tl.int64)
    group, row = program % groups, program // groups
    direction, element = row // batch, row % batch
    i = tl.arange(0, STEPS)[:, None]
    n = tl.arange(0, STATES)[None, :]
    position = group * STEPS + (STEPS - 1) * direction + i * (1 - 2 * direction)
    mask = (n < states) & (position < length)
    b = tl.load(b_ptr + direction * b_direction + element * b_batch + position * b_row + n, mask=mask, other=0.0)
    c = tl.load(c_ptr + direction * c_direction + element * c_batch + position * c_row + n, mask=mask, other=0.0)
    packed_ptr += (program * STEPS + i) * 2 * STATES + n
    tl.store(packed_ptr, b.to(tl.float32))
    tl.store(packed_ptr + STATES, c.to(tl.float32))


@triton.jit
def chunk_states_kernel(
    drive_ptr,
    z_ptr,
    delta_ptr,
    packed_ptr,
    rates_ptr,
    bias_ptr,
    states_ptr,
    totals_ptr,
    drive_direction,
    drive_batch,
    drive_row,
    z_batch,
    z_row,
    delta_direction,
    delta_batch,
    delta_row,
    batch,
    length,
    channels,
    states,
    groups,
    chunk,
    chunks,
    blocks,
    ADJOINT: tl.constexpr,
    STATES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """State at each chunk's end from zero at its start, and the sum of its step sizes.

    Of the state h (driven by u, weighted by B) or, against the direction, of its adjoint decayed by one step (driven
    by the gradient of y, weighted by C).
    """
    block, index, row = _program(blocks, chunks)
    direction, element = row // batch, row % batch
    lane, inside, n, tile, within = _lanes(block, channels, states, STATES, BLOCK)
    drive_ptr += direction * drive_direction + element * drive_batch + lane
    z_ptr += element * z_batch + lane
    delta_ptr += direction * delta_direction + element * delta_batch + lane
    bias = tl.load(bias_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    rates = tl.load(rates_ptr + tile, mask=within, other=0.0) * LOG2_E
    state = tl.zeros((STATES, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    step = 1 - 2 * direction
    count = tl.minimum(chunk, groups - index * chunk)
    for i in range(count):
        if ADJOINT:
            group = index * chunk + (count - 1 - i) * (1 - direction) + i * direction
        else:
            group = index * chunk + i * (1 - direction) + (count - 1 - i) * direction
        first, offset, rest = _group(group, direction, length, STEPS)
        sizes = _load_sizes(delta_ptr + first * delta_row, step * delta_row, offset, step, rest, bias, inside, STEPS)
        packed = packed_ptr + (row * groups + group) * STEPS * 2 * STATES + n
        drive_at, drive_jump = drive_ptr + first * drive_row, step * drive_row
        if ADJOINT:
            z_at, z_jump = z_ptr + first * z_row, step * z_row
            drive = _load_grad_y(drive_at, drive_jump, z_at, z_jump, offset, step, rest, inside, STEPS)
            for j in tl.static_range(STEPS - 1, -1, -1):
                c = tl.load(packed + (2 * j + 1) * STATES)
                state = tl.exp2(sizes[j][None, :] * rates) * (state + drive[j][None, :] * c[:, None])
        else:
            u = _load(drive_at, drive_jump, offset, step, rest, inside, STEPS)
            for j in tl.static_range(STEPS):
                b = tl.load(packed + 2 * j * STATES)
                state = tl.exp2(sizes[j][None, :] * rates) * state + (sizes[j] * u[j])[None, :] * b[:, None]
                total += sizes[j]
    part = row * chunks + index
    tl.store(states_ptr + part * states * channels + tile, state, mask=within)
    if not ADJOINT:
        tl.store(totals_ptr + part * channels + lane, total, mask=inside)


@triton.jit
def carry_kernel(
    states_ptr,
    totals_ptr,
    rates_ptr,
    batch,
    channels,
    states,
    chunks,
    blocks,
    ADJOINT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Replace the state at each chunk's end, scanned from zero, by the state at its start."""
    block, n, row = _program(blocks, states)
    lane = block * BLOCK + tl.arange(0, BLOCK)
    inside = lane < channels
    direction = row // batch
    from_end = 1 - direction if ADJOINT else direction
    first, step = (chunks - 1) * from_end, 1 - 2 * from_end
    rate = tl.load(rates_ptr + n * channels + lane, mask=inside, other=0.0) * LOG2_E
    states_ptr += (row * chunks * states + n) * channels + lane
    totals_ptr += row * chunks * channels + lane
    state = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, chunks, _CARRY_GROUP):
        totals, ends = (), ()
        for i in tl.static_range(_CARRY_GROUP):
            chunk = first + step * (begin + i)
            mask = inside & (begin + i < chunks)
            totals = totals + (tl.load(totals_ptr + chunk * channels, mask=mask, other=0.0),)
            ends = ends + (tl.load(states_ptr + chunk * states * channels, mask=mask, other=0.0),)
        for i in tl.static_range(_CARRY_GROUP):
            chunk = first + step * (begin + i)
            tl.store(states_ptr + chunk * states * channels, state, mask=inside & (begin + i < chunks))
            state = tl.exp2(totals[i] * rate) * state + ends[i]


@triton.jit
def output_kernel(
    u_ptr,
    delta_ptr,
    z_ptr,
    packed_ptr,
    rates_ptr,
    skip_ptr,
    bias_ptr,
    states_ptr,
    partial_ptr,
    out_ptr,
    grad_ptr,
    starts_ptr,
    u_direction,
    u_batch,
    u_row,
    delta_direction,
    delta_batch,
    delta_row,
    z_batch,
    z_row,
    grad_batch,
    grad_row,
    batch,
    length,
    channels,
    states,
    groups,
    chunk,
    chunks,
    blocks,
    BACKWARD: tl.constexpr,
    STATES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Outputs of a chunk from the states at its two starts; the first direction's y waits in ``partial``.

    For the backward, the gradient of z in place of the outputs, and the states before every group in ``starts``.
    """
    block, index, element = _program(blocks, chunks)
    lane, inside, n, tile, within = _lanes(block, channels, states, STATES, BLOCK)
    z_ptr += element * z_batch + lane
    grad_ptr += element * grad_batch + lane
    partial_ptr += element * length * channels + lane
    out_ptr += element * length * channels + lane
    skip = tl.load(skip_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    rates = tl.load(rates_ptr + tile, mask=within, other=0.0) * LOG2_E
    count = tl.minimum(chunk, groups - index * chunk)
    for direction in tl.static_range(2):
        row = direction * batch + element
        u = u_ptr + direction * u_direction + element * u_batch + lane
        delta = delta_ptr + direction * delta_direction + element * delta_batch + lane
        state = tl.load(states_ptr + (row * chunks + index) * states * channels + tile, mask=within, other=0.0)
        step = 1 - 2 * direction
        for i in range(count):
            group = index * chunk + i * (1 - direction) + (count - 1 - i) * direction
            first, offset, rest = _group(group, direction, length, STEPS)
            sizes = _load_sizes(delta + first * delta_row, step * delta_row, offset, step, rest, bias, inside, STEPS)
            x = _load(u + first * u_row, step * u_row, offset, step, rest, inside, STEPS)
            packed = packed_ptr + (row * groups + group) * STEPS * 2 * STATES + n
            if BACKWARD:
                tl.store(starts_ptr + (row * groups + group) * states * channels + tile, state, mask=within)
            y = ()
            for j in tl.static_range(STEPS):
                b = tl.load(packed + 2 * j * STATES)
                c = tl.load(packed + (2 * j + 1) * STATES)
                state = tl.exp2(sizes[j][None, :] * rates) * state + (sizes[j] * x[j])[None, :] * b[:, None]
                y = y + (tl.sum(state * c[:, None], 0) + skip * x[j],)
            dense, gate, grad = first * channels, z_ptr + first * z_row, grad_ptr + first * grad_row
            for j in tl.static_range(STEPS):
                mask = inside & (offset + step * j < rest)
                if direction == 0:
                    tl.store(partial_ptr + dense, y[j], mask=mask)
                else:
                    z = tl.load(gate, mask=mask, other=0.0).to(tl.float32)
                    mean = 0.5 * (tl.load(partial_ptr + dense, mask=mask, other=0.0) + y[j])
                    if BACKWARD:
                        opened = sigmoid(z)
                        slope = opened * (1.0 + z * (1.0 - opened))
                        value = tl.load(grad, mask=mask, other=0.0).to(tl.float32) * mean * slope
                    else:
                        value = mean * z * sigmoid(z)
                    tl.store(out_ptr + dense, value, mask=mask)
                dense += step * channels
                gate += step * z_row
                grad += step * grad_row
        tl.debug_barrier()


@triton.jit
def gradient_kernel(
    grad_ptr,
    u_ptr,
    delta_ptr,
    z_ptr,
    packed_ptr,
    rates_ptr,
    skip_ptr,
    bias_ptr,
    starts_ptr,
    adjoints_ptr,
    grad_u_ptr,
    grad_delta_ptr,
    grad_packed_ptr,
    grad_rates_ptr,
    grad_skip_ptr,
    grad_bias_ptr,
    grad_batch,
    grad_row,
    u_direction,
    u_batch,
    u_row,
    delta_direction,
    delta_batch,
    delta_row,
    z_batch,
    z_row,
    batch,
    length,
    channels,
    states,
    groups,
    chunk,
    chunks,
    blocks,
    STATES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a chunk in one direction from the states before its groups and the adjoint at its end.

    Against the direction, each group recomputes its states in registers and runs the adjoint, which is overwritten,
    through them.
    """
    block, index, row = _program(blocks, chunks)
    direction, element = row // batch, row % batch
    lane = block * BLOCK + tl.arange(0, BLOCK)
    inside = lane < channels
    part = row * chunks + index
    grad_ptr += element * grad_batch + lane
    z_ptr += element * z_batch + lane
    u_ptr += direction * u_direction + element * u_batch + lane
    delta_ptr += direction * delta_direction + element * delta_batch + lane
    grad_u_ptr += row * length * channels + lane
    grad_delta_ptr += row * length * channels + lane
    adjoints_ptr += part * states * channels + lane
    grad_rates_ptr += part * states * channels + lane
    skip = tl.load(skip_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + lane, mask=inside, other=0.0).to(tl.float32)
    grad_skip = tl.zeros((BLOCK,), tl.float32)
    grad_bias = tl.zeros((BLOCK,), tl.float32)
    step = 1 - 2 * direction
    count = tl.minimum(chunk, groups - index * chunk)
    for i in range(count):
        group = index * chunk + (count - 1 - i) * (1 - direction) + i * direction
        first, offset, rest = _group(group, direction, length, STEPS)
        sizes = _load_sizes(delta_ptr + first * delta_row, step * delta_row, offset, step, rest, bias, inside, STEPS)
        x = _load(u_ptr + first * u_row, step * u_row, offset, step, rest, inside, STEPS)
        drive = _multiply(sizes, x, STEPS)
        grad_at, z_at = grad_ptr + first * grad_row, z_ptr + first * z_row
        grad_y = _load_grad_y(grad_at, step * grad_row, z_at, step * z_row, offset, step, rest, inside, STEPS)
        to_drive, to_size = (), ()
        for j in tl.static_range(STEPS):
            grad_skip += grad_y[j] * x[j]
            zero = tl.zeros((BLOCK,), tl.float32)
            to_drive, to_size = to_drive + (zero,), to_size + (zero,)
        starts = starts_ptr + (row * groups + group) * states * channels + lane
        packed = packed_ptr + (row * groups + group) * STEPS * 2 * STATES
        grad_packed = grad_packed_ptr + ((block * 2 * batch + row) * groups + group) * STEPS * 2 * STATES
        for n in range(states):
            rate = tl.load(rates_ptr + n * channels + lane, mask=inside, other=0.0)
            state = tl.load(starts + n * channels, mask=inside, other=0.0)
            adjoint = tl.load(adjoints_ptr + n * channels, mask=inside, other=0.0)
            grad_rate = tl.load(grad_rates_ptr + n * channels, mask=inside & (i > 0), other=0.0)
            b = _load_scalars(packed + n, 2 * STATES, STEPS)
            c = _load_scalars(packed + STATES + n, 2 * STATES, STEPS)
            before, decays = (), ()
            for j in tl.static_range(STEPS):
                decay = tl.exp2(sizes[j] * (rate * LOG2_E))
                before, decays = before + (state,), decays + (decay,)
                state = decay * state + drive[j] * b[j]
                tl.store(grad_packed + (2 * j + 1) * STATES + n, tl.sum(grad_y[j] * state, 0))
            drives, size_terms = (), ()
            for j in tl.static_range(STEPS - 1, -1, -1):
                total = adjoint + c[j] * grad_y[j]
                tl.store(grad_packed + 2 * j * STATES + n, tl.sum(total * drive[j], 0))
                adjoint = decays[j] * total
                decayed = adjoint * before[j]
                grad_rate += sizes[j] * decayed
                drives = (to_drive[j] + total * b[j],) + drives
                size_terms = (to_size[j] + rate * decayed,) + size_terms
            to_drive, to_size = drives, size_terms
            tl.store(adjoints_ptr + n * channels, adjoint, mask=inside)
            tl.store(grad_rates_ptr + n * channels, grad_rate, mask=inside)
        dense, at_u, at_delta = first * channels, u_ptr + first * u_row, delta_ptr + first * delta_row
        for j in tl.static_range(STEPS):
            mask = inside & (offset + step * j < rest)
            slope = sigmoid(tl.load(at_delta, mask=mask, other=0.0).to(tl.float32) + bias)
            u = tl.load(at_u, mask=mask, other=0.0).to(tl.float32)
            grad_size = tl.where(mask, (to_size[j] + u * to_drive[j]) * slope, 0.0)
            tl.store(grad_u_ptr + dense, skip * grad_y[j] + sizes[j] * to_drive[j], mask=mask)
            tl.store(grad_delta_ptr + dense, grad_size, mask=mask)
            grad_bias += grad_size
            dense += step * channels
            at_u += step * u_row
            at_delta += step * delta_row
        tl.debug_barrier()
    tl.store(grad_skip_ptr + part * channels + lane, grad_skip, mask=inside)
    tl.store(grad_bias_ptr + part * channels + lane, grad_bias, mask=inside)
