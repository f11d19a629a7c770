"""The in-place norms of the CPU against torch's."""

from __future__ import annotations

import pytest
import torch
from dynamicvis_kernels.normalization import layer_norm_, rms_norm
from torch.nn import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 8, 24, 96, 1000])
def test_norms_equal_torch(channels: int, dtype: torch.dtype) -> None:
    """Channels that no vector divides, a mean far from zero, several images, and slices of wider rows."""
    generator = torch.Generator().manual_seed(channels)
    wide = 50 + 3 * torch.randn(2, 70, channels + 5, generator=generator, dtype=dtype)
    tokens = wide[..., :channels]
    weight, bias = torch.randn(2, channels, generator=generator, dtype=dtype)
    # Subtracting the mean leaves the rounding error of values 50 times as large as 1, divided by their deviation.
    bound = 50 * 16 * torch.finfo(dtype).eps
    expected = F.layer_norm(tokens, (channels,), weight, bias, 1e-6)
    untouched = wide[..., channels:].clone()
    squares = F.rms_norm(tokens, (channels,), weight, 1e-5)
    torch.testing.assert_close(
        rms_norm(tokens, weight, 1e-5, torch.empty(tokens.shape, dtype=dtype)), squares, rtol=bound, atol=bound
    )
    indices = torch.tensor([[69, 3, 0], [5, 5, 12]])
    chosen = rms_norm(tokens, weight, 1e-5, torch.zeros(2, 5, channels, dtype=dtype)[:, 1:4], indices)
    torch.testing.assert_close(chosen, torch.stack([squares[b, indices[b]] for b in range(2)]), rtol=bound, atol=bound)
    in_place = tokens.clone()
    torch.testing.assert_close(rms_norm(in_place, weight, 1e-5, in_place), squares, rtol=bound, atol=bound)
    assert layer_norm_(tokens, weight, bias, 1e-6) is tokens
    torch.testing.assert_close(tokens, expected, rtol=bound, atol=bound)
    assert torch.equal(wide[..., channels:], untouched)
