"""Operators of the DynamicVis backbone: bidirectional selective scan, causal convolution, routing of tokens.

Each operator has a readable naive version in plain torch, a CPU version compiled at first use and a Triton version for
NVIDIA's and AMD's GPUs; all are differentiable. ``DYNAMICVIS_BACKEND`` (``naive``, ``cpu``, ``triton``, ``mamba_ssm``)
forces one; `choose_backend` says which runs where.
"""

from dynamicvis_kernels._backend import choose_backend
from dynamicvis_kernels.causal_conv import causal_conv_silu
from dynamicvis_kernels.selective_scan import selective_scan
from dynamicvis_kernels.token_routing import gather_tokens, scatter_tokens, scatter_tokens_

__all__ = [
    "causal_conv_silu",
    "choose_backend",
    "gather_tokens",
    "scatter_tokens",
    "scatter_tokens_",
    "selective_scan",
]
