"""Binary codes of embeddings."""

from __future__ import annotations

from torch import Tensor


def binary_codes(embeddings: Tensor, bits: int | None = None) -> Tensor:
    """Codes of ``bits`` bits: neighbouring dimensions are averaged to that many groups, each gives its sign.

    Args:
        embeddings: (N, D).
        bits: length of the codes, a divisor of D; None for D, so one bit a dimension.

    Returns:
        (N, bits) bool, True where the group's mean is positive.

    Raises:
        ValueError: ``bits`` does not divide D.

    Source: arXiv 2503.16426, section 4.3.7 ("binary" and "64-bit").
    """
    dimensions = embeddings.shape[1]
    bits = dimensions if bits is None else bits
    if bits < 1 or dimensions % bits:
        divisors = ", ".join(str(n) for n in range(1, dimensions + 1) if dimensions % n == 0)
        raise ValueError(f"embeddings of {dimensions} dimensions give codes of {divisors} bits, not of {bits}")
    return embeddings.unflatten(1, (bits, dimensions // bits)).mean(dim=2) > 0
