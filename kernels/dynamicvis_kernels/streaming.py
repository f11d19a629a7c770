"""What sees direction in the mixer, in one sweep per direction: convolution, projections and scan, chunk by chunk.

For inference on the CPU: the inputs of the scan only ever exist for one chunk, which stays in the last-level cache, and
its steps only inside the kernel. The numbers are those of `causal_conv_silu`, two linear layers and `selective_scan`.
"""

from __future__ import annotations

import torch

from dynamicvis_kernels._checks import check_arguments, name_dimensions
from dynamicvis_kernels._packing import pack_rows
from dynamicvis_kernels.causal_conv.cpu import RowConvolution
from dynamicvis_kernels.selective_scan.cpu import RowScan

_CHUNK_ELEMENTS = 1 << 20  # of the inputs of one chunk, at most


def stream_both_ways(
    x: torch.Tensor,
    z: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor,
    x_proj: torch.Tensor,
    dt_proj: torch.Tensor,
    dt_bias: torch.Tensor,
    A: torch.Tensor,
    D: torch.Tensor,
    out: torch.Tensor,
    leading: int = 0,
) -> torch.Tensor:
    """Mean of the gated scans from both ends, into ``out``. Not differentiable.

    Args:
        x: (batch, length, channels), float32 or float64, on the CPU, rows dense.
        z: gate before SiLU, like x.
        conv_weight, conv_bias: (channels, width) and (channels,).
        x_proj: (rank + 2 * states, channels), gives the step's low-rank form, B and C.
        dt_proj, dt_bias: (channels, rank) and (channels,).
        A: (channels, states), negative rates.
        D: (channels,) skip connection.
        out: like x.
        leading: at how many positions, from the first, z is not read and the result is anything.

    Returns:
        ``out``.

    Raises:
        ValueError: a shape, type, device or stride does not fit, or a gradient is asked for.
    """
    name = "stream_both_ways"
    if (x.ndim, conv_weight.ndim, dt_proj.ndim, A.ndim) != (3, 2, 2, 2):
        name_dimensions(name, x=(x, 3), conv_weight=(conv_weight, 2), dt_proj=(dt_proj, 2), A=(A, 2))
    batch, length, channels = x.shape
    width, rank, states = conv_weight.shape[1], dt_proj.shape[1], A.shape[1]
    expected = {
        "x": (x, x.shape),
        "z": (z, x.shape),
        "conv_weight": (conv_weight, (channels, width)),
        "conv_bias": (conv_bias, (channels,)),
        "x_proj": (x_proj, (rank + 2 * states, channels)),
        "dt_proj": (dt_proj, (channels, rank)),
        "dt_bias": (dt_bias, (channels,)),
        "A": (A, (channels, states)),
        "D": (D, (channels,)),
        "out": (out, x.shape),
    }
    check_arguments(name, x, expected, dense=(x, z), written=(out,))
    if min(width, rank, states) < 1:
        raise ValueError(f"{name}: needs a tap, a rank and a state at least, got {width}, {rank} and {states}")
    if not 0 <= leading <= length:
        raise ValueError(f"{name}: leading must lie in [0, {length}], got {leading}")
    if not x.numel():
        return out
    taps, projection, step_projection = pack_rows(conv_weight, x_proj, dt_proj)
    A, D, dt_bias, conv_bias = (tensor.contiguous() for tensor in (A, D, dt_bias, conv_bias))
    chunks = max(1, -(-length * batch * channels // _CHUNK_ELEMENTS))
    chunk = max(64, -(-length // chunks))
    u = x.new_empty(batch, chunk, channels)
    projected = x.new_empty(batch, chunk, projection.shape[0] * projection.shape[2])
    low_rank, B, C = projected[..., : rank + 2 * states].split([rank, states, states], dim=-1)
    convolve = RowConvolution(x, taps, conv_bias, u, projection, projected)
    scan = RowScan(u, low_rank, A, B, C, D, z, dt_bias, out, step_projection)
    for direction in range(2):
        # The way back ends where nobody looks any more.
        first = leading if direction else 0
        starts = range(length - chunk, first - chunk, -chunk) if direction else range(0, length, chunk)
        for start in starts:
            rows = max(start, first), min(start + chunk, length)
            convolve(rows, (direction, direction + 1))
            scan(rows, (direction, direction + 1), proceed=start != starts[0])
    return out
