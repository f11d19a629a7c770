"""Operators of the DynamicVis backbone: the bidirectional selective scan and causal convolution.

Each operator has a readable naive version in plain torch and a CPU version compiled at first use; both are
differentiable. ``DYNAMICVIS_BACKEND`` (``naive`` or ``cpu``) forces one.
"""

from dynamicvis_kernels._backend import choose_backend
from dynamicvis_kernels.causal_conv import causal_conv_silu
from dynamicvis_kernels.selective_scan import selective_scan

__all__ = ["causal_conv_silu", "choose_backend", "selective_scan"]
