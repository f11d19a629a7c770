"""The Triton kernels compiled for GPUs that are not there: registers suffice, and offsets are 64 bits wide."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# In a process of its own: this one may hold Triton's interpreter in place of its compiler.
PROGRAM = """
import re, torch, triton
from dynamicvis_kernels._triton import source
from dynamicvis_kernels.causal_conv import triton as conv
from dynamicvis_kernels.selective_scan import triton as scan
from dynamicvis_kernels.token_routing import triton as routing
from triton.backends.compiler import GPUTarget

def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")

float32 = torch.float32
length, channels, states, rank = 33280, 192, 16, 6
rows = empty(2, 1, length, rank + 2 * states)
xz = empty(1, length, 2 * channels)
scan_inputs = (
    empty(2, 1, length, channels), empty(2, 1, length, channels), empty(channels, states, dtype=float32),
    rows[..., rank:-states], rows[..., -states:], empty(channels, dtype=float32), xz[..., channels:],
    empty(channels, dtype=float32),
)
conv_inputs = (xz[..., :channels], empty(channels, 4, dtype=float32), empty(channels, dtype=float32))
tokens, mixed, weights = empty(1, 262144, 96), empty(1, 32768, 96), empty(1, 262144, dtype=float32)
indices = empty(1, 32768, dtype=torch.int64)
plans = [
    scan.plan_forward(*scan_inputs), scan.plan_backward(empty(1, length, channels), *scan_inputs),
    conv.plan_forward(*conv_inputs), conv.plan_backward(empty(2, 1, length, channels), *conv_inputs),
    routing.plan_gather_forward(tokens, indices), routing.plan_gather_backward(mixed, tokens, indices),
    routing.plan_scatter_forward(tokens, mixed, weights, indices, "softmax"),
    routing.plan_scatter_backward(tokens, tokens, mixed, weights, indices, "softmax"),
]
launches = {launch.name: launch for launches, _ in plans for launch in launches}
for launch in launches.values():
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    for target in (GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
        compiled = triton.compile(source(launch), target=target, options=options)
        if target.backend == "cuda":
            tools = triton.knobs.nvidia.cuobjdump.path
            import subprocess, tempfile
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(compiled.asm["cubin"])
                file.flush()
                usage = subprocess.run([tools, "-res-usage", file.name], check=True, capture_output=True, text=True)
            spilled = re.findall(r"STACK:(\\d+)", usage.stdout)
        else:
            code = compiled.asm["amdgcn"]
            spilled = re.findall(r"\\.vgpr_spill_count: *(\\d+)", code)
            spilled += re.findall(r"\\.private_segment_fixed_size: *(\\d+)", code)
        assert spilled, launch.name
        print(launch.name, target.arch, *spilled, sep=";")
"""


def test_no_kernel_spills() -> None:
    """At the largest shape of the base backbone at 2048 x 2048, for an NVIDIA and an AMD GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    lines = [line.split(";") for line in output.splitlines()]
    assert len(lines) == 2 * 15
    assert [line for line in lines if set(line[2:]) != {"0"}] == []
