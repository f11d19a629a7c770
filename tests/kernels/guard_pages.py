"""Run every CPU kernel on buffers that end, or begin, at a page that may not be touched.

``python tests/kernels/guard_pages.py --shapes 2000`` is the long form: it prints how many buffers were guarded, and
dies with a segmentation fault at the first access beyond one. `test_guard_pages.py` runs the short form.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import math
import mmap
import random
from collections.abc import Iterator

import torch
from dynamicvis_kernels import causal_conv_silu, selective_scan, streaming
from dynamicvis_kernels._packing import pack_rows
from dynamicvis_kernels.causal_conv import naive as naive_convolution
from dynamicvis_kernels.normalization import layer_norm_, rms_norm
from dynamicvis_kernels.resampling import add_resampled_
from dynamicvis_kernels.selective_scan import naive as naive_scan
from dynamicvis_kernels.token_routing import naive as naive_routing
from dynamicvis_kernels.token_routing.cpu import add_rows_, gather_rows, scatter_rows_, score_rows
from torch.nn import functional as F

_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect


class Guard:
    """Makes tensors that lie against a forbidden page: behind their last element, and every other one's first."""

    def __init__(self) -> None:
        self.buffers = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Filled with NaN, or -1."""
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        self.buffers += 1
        pages = -(-size // _PAGE)
        memory = mmap.mmap(-1, (pages + 2) * _PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (0, pages + 1):
            if _mprotect(ctypes.c_void_p(start + page * _PAGE), _PAGE, _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        offset = _PAGE if self.buffers % 2 else (pages + 1) * _PAGE - size
        tensor = torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset).view(shape)
        return tensor.fill_(-1 if dtype == torch.int64 else torch.nan)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)

    @contextlib.contextmanager
    def over_new_tensors(self) -> Iterator[None]:
        """The kernels' own outputs and scratch are guarded too."""
        new_empty = torch.Tensor.new_empty

        def guarded(like: torch.Tensor, *shape: int) -> torch.Tensor:
            return self.empty(torch.Size(*shape) if isinstance(shape[0], tuple) else shape, like.dtype)

        torch.Tensor.new_empty = guarded  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            torch.Tensor.new_empty = new_empty  # type: ignore[method-assign]


def _close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    bound = 1e-3 if actual.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(
        actual, expected, rtol=bound, atol=bound * max(1.0, float(expected.detach().abs().max()))
    )


def check_shape(guard: Guard, draw: random.Random) -> None:
    """All kernels at one random shape, held against plain torch."""
    dtype = draw.choice((torch.float32, torch.float64))
    batch, length = draw.randint(1, 3), draw.choice((1, 2, 3, 4, 15, 16, 17, 31, 33, 64, 65, draw.randint(1, 80)))
    channels = draw.choice((1, 7, 8, 9, 15, 16, 17, draw.randint(1, 70), draw.choice((128, 130))))
    states, width, rank = draw.choice((1, 5, 16, 16, 20)), draw.randint(1, 6), draw.randint(1, 6)
    height, columns = draw.randint(1, 5), draw.randint(1, 9)
    torch.manual_seed(draw.randrange(1 << 30))

    def normal(*shape: int) -> torch.Tensor:
        return guard.copy(torch.randn(shape, dtype=dtype))

    rows, states_rows = (batch, length, channels), (2, batch, length, states)
    rates = guard.copy(-normal(channels, states).abs())
    scan = [normal(2, *rows), normal(2, *rows), rates, normal(*states_rows), normal(*states_rows), normal(channels)]
    scan += [normal(*rows), normal(channels)]
    convolution = [normal(*rows), normal(channels, width), normal(channels)]
    for operator, naive, inputs in (
        (selective_scan, naive_scan.selective_scan, scan),
        (causal_conv_silu, naive_convolution.causal_conv_silu, convolution),
    ):
        leaves = [tensor.requires_grad_() for tensor in inputs]
        output, expected = operator(*leaves), naive(*leaves)
        _close(output, expected)
        grad = normal(*output.shape)
        gradients = torch.autograd.grad(output, leaves, grad)
        for one, other in zip(gradients, torch.autograd.grad(expected, leaves, grad), strict=True):
            _close(one, other)
    with torch.no_grad():
        _check_inference(guard, draw, normal, (batch, length, channels), (states, width, rank), (height, columns))


def _check_inference(guard, draw, normal, rows, sizes, grid) -> None:  # type: ignore[no-untyped-def]
    (batch, length, channels), (states, width, rank), (height, columns) = rows, sizes, grid
    kept = draw.randint(1, length)
    indices = guard.copy(torch.stack([torch.randperm(length)[:kept] for _ in range(batch)]))
    tokens, weight, bias = normal(*rows), normal(channels), normal(channels)
    squares = F.rms_norm(tokens, (channels,), weight, 1e-5)
    out = guard.empty((batch, kept, channels), tokens.dtype)
    _close(rms_norm(tokens, weight, 1e-5, out, indices), naive_routing.gather_tokens(squares, indices))
    _close(gather_rows(tokens, indices), naive_routing.gather_tokens(tokens, indices))
    _close(layer_norm_(guard.copy(tokens), weight, bias, 1e-3), F.layer_norm(tokens, (channels,), weight, bias, 1e-3))

    mixed, scores = normal(batch, kept, channels), normal(batch, length)
    residual = draw.choice(("softmax", "identity"))
    expected, scattered = naive_routing.scatter_tokens(tokens, mixed, scores, indices, residual), guard.copy(tokens)
    scatter_rows_(scattered, mixed, scores, indices, residual)
    _close(scattered, expected)
    map_rows = draw.choice([size for size in range(1, length + 1) if length % size == 0])
    means = guard.empty((batch, map_rows, channels), tokens.dtype)
    _close(score_rows(tokens, weight, means), tokens @ weight)
    _close(means, tokens.unflatten(1, (map_rows, -1)).mean(2))
    added = guard.copy(tokens)
    own = naive_routing.gather_tokens(tokens, indices)
    expected = naive_routing.scatter_tokens(tokens, mixed + own, scores, indices, residual)
    _close(add_rows_(added, mixed, scores, indices, residual, weight, means), expected @ weight)
    _close(added, expected)

    new_height, new_columns = draw.randint(1, 7), draw.randint(1, 7)
    grid_tokens, maps = normal(batch, new_height * new_columns, channels), normal(1, height, columns, channels)
    vertical, horizontal = normal(new_height, height), normal(new_columns, columns)
    resampled = torch.einsum("hr,wc,brcd->bhwd", vertical, horizontal, maps).flatten(1, 2)
    _close(add_resampled_(guard.copy(grid_tokens), maps, vertical, horizontal), grid_tokens + resampled)

    (packed,) = pack_rows(normal(channels, width))
    assert packed.isfinite().all()
    x, z = normal(*rows), normal(*rows)
    taps, projection, steps = normal(channels, width), normal(rank + 2 * states, channels), normal(channels, rank)
    rates = guard.copy(-normal(channels, states).abs())
    streaming._CHUNK_ELEMENTS = draw.choice((1, 1 << 20))
    actual = streaming.stream_both_ways(
        x, z, taps, bias, projection, steps, weight, rates, bias, guard.empty(rows, x.dtype)
    )
    u = naive_convolution.causal_conv_silu(x, taps, bias)
    low_rank, b, c = F.linear(u, projection).split([rank, states, states], dim=-1)
    expected = naive_scan.selective_scan(u, F.linear(low_rank, steps), rates, b, c, bias, z, weight)
    finite = expected.isfinite()
    _close(actual[finite], expected[finite])


def main() -> None:
    """Parse, check and print the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=40, help="random shapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(options.threads)
    guard, draw = Guard(), random.Random(options.seed)
    with guard.over_new_tensors():
        for _ in range(options.shapes):
            check_shape(guard, draw)
    print(f"{guard.buffers} guarded buffers at {options.shapes} shapes, no access beyond one")


if __name__ == "__main__":
    main()
