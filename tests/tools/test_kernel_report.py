"""The kernel report: its reading of code against numbers worked out by hand, and the kernels' own code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools_helpers import ROOT

pytest.importorskip("triton")
# Reading is tested here; whatever compiles runs in a process of its own, without the interpreter of the kernel tests.
sys.path.insert(0, str(ROOT / "tools"))
import kernel_report
from kernel_model.chips import CHIPS, Work, bounds, occupancy
from kernel_model.compiled import Compiled
from kernel_model.disassembly import KINDS, Counts, count, read_amdgcn, read_sass
from kernel_model.forward import Operation, OperatorCall, trace_forward
from kernel_model.ir import Region, read_function
from kernel_model.report import Report, Row, forward_seconds, to_json, to_markdown

A100, H100, MI300X, _ = CHIPS

# A scan of STEPS positions by one warp: per position, a tile of 32 x 16 takes one exponential and one addition.
SCAN = """
import triton
import triton.language as tl

@triton.jit
def scan(x_ptr, y_ptr, length, BLOCK: tl.constexpr, STATES: tl.constexpr):
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rates = tl.arange(0, STATES).to(tl.float32)
    state = tl.zeros((BLOCK, STATES), tl.float32)
    for t in range(length):
        x = tl.load(x_ptr + t * 64 + lane)
        state = tl.exp2(x[:, None] * rates[None, :]) + state
    tl.store(y_ptr + lane, tl.sum(state, 1))
"""

COMPILE = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
import torch
from dynamicvis_kernels._triton import Launch
from dynamicvis_kernels.selective_scan.triton import plan_forward
from kernel_model.compiled import compile_launch
from scan import scan

def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")

arguments = (empty(100, 64, dtype=torch.float32), empty(64, dtype=torch.float32), 100)
launch = Launch("scan", scan, (2,), arguments, {"BLOCK": 32, "STATES": 16}, num_warps=1)
report = {target: dataclasses.asdict(compile_launch(launch, target)) for target in ("sm_90", "gfx942", "gfx1100")}
sequence, low = empty(2, 1, 2176, 192), empty(2, 1, 2176, 38)
inputs = (sequence, sequence, empty(192, 16), low[..., 6:22], low[..., 22:], empty(192))
launches, _ = plan_forward(*inputs, empty(1, 2176, 384)[..., 192:], empty(192))
report["selective_scan"] = [dataclasses.asdict(compile_launch(launch, "sm_90")) for launch in launches[:-1]]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "scan.py").write_text(SCAN)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": f"{folder}:{ROOT / 'kernels'}:{ROOT}"}
    command = [sys.executable, "-c", COMPILE, str(ROOT / "tools")]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


@pytest.mark.parametrize(("target", "lanes"), [("sm_90", 32), ("gfx942", 64), ("gfx1100", 32)])
def test_counts_of_a_known_kernel(compiled: dict[str, Any], target: str, lanes: int) -> None:
    found = compiled[target]
    counts = found["counts"]
    per_position = 32 * 16 // lanes
    assert found["spills"] == 0
    assert found["programs"] == 2
    assert found["ir_exps"] == 100 * per_position
    # A remainder of the unrolling that stands outside of the loop counts once, whether it runs or not.
    assert counts["exps"] - 100 * per_position in (0, per_position)
    # However far the loop is unrolled, it holds whole positions, and all of them are run.
    assert counts["loop_exps"] % per_position == 0
    assert counts["loop_iterations"] * counts["loop_exps"] == 100 * per_position
    # An addition per exponential, and a multiplication for each rate but the first, which is zero.
    assert counts["fmas"] >= 2 * 100 * per_position * 15 / 16
    # x once by each program's half, y once; both in float32.
    assert found["bytes"] == found["requested"] == 100 * 64 * 4 + 64 * 4


def test_code_of_the_scan(compiled: dict[str, Any]) -> None:
    """All launches of a forward but the last, which takes the compiler longest."""
    for found in compiled["selective_scan"]:
        assert found["spills"] == 0
        assert 16 <= found["registers"] <= 255
        # Read from the machine code, and from the code before it was compiled; the arms of a branch both count.
        assert found["counts"]["exps"] == pytest.approx(found["ir_exps"], rel=0.1)
        assert found["bytes"] <= found["requested"]
    # Every state of every channel and position decays by one exponential, in both directions.
    exps = sum(
        found["counts"]["exps"] * 32 * found["warps"] * found["programs"] for found in compiled["selective_scan"]
    )
    assert exps >= 2 * 2176 * 192 * 16


def test_trip_counts_from_the_intermediate_code() -> None:
    code = """
    tt.func public @kernel(%x: !tt.ptr<f32>, %length: i32) {
      %c0 = arith.constant 0 : i32
      %c4 = arith.constant 4 : i32
      %program = tt.get_program_id x : i32
      %start = arith.muli %program, %c4 : i32
      %left = arith.subi %length, %start : i32
      %count = arith.minsi %left, %c4 : i32
      %first = arith.cmpi eq, %program, %c0 : i32
      scf.for %i = %c0 to %count step %c1  : i32 {
        %c1 = arith.constant 1 : i32
      }
    }
    """.replace("      %c0 = ", "      %c1 = arith.constant 1 : i32\n      %c0 = ")
    assert [loop.trips for loop in read_function(code, {"length": 3}, (1,)).body.loops] == [3]
    assert [loop.trips for loop in read_function(code, {"length": 99}, (25,)).body.loops] == [4]
    with pytest.raises(ValueError, match="%i"):
        read_function(code, {}, (1,))


def test_loops_of_sass() -> None:
    text = """
    //## File "k.py", line 2
        /*0000*/                   MUFU.EX2 R1, R1 ;
        /*0010*/               @P0 BRA `(.L_x_2) ;
.L_x_0:
    //## File "k.py", line 9 inlined at "k.py", line 4
        /*0020*/                   FFMA R1, R2, R3, R4 ;
        /*0030*/                   MUFU.EX2 R1, R1 ;
        /*0040*/                   MUFU.EX2 R2, R2 ;
        /*0050*/              @!P1 BRA `(.L_x_3) ;
.L_x_1:
        /*0060*/                   LDG.E R1, desc[UR4][R2.64] ;
        /*0070*/               @P2 BRA `(.L_x_0) ;
.L_x_2:
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   STS [R1], R2 ;
        /*00a0*/                   BRA `(.L_x_1) ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
    """
    body = Region(exps=1, loops=[Region(trips=10, exps=1, lines={4})])
    counts = count(*read_sass(text), body)
    # Two exponentials a pass where one is due: unrolled by two, so half of the ten iterations. The block at .L_x_3 lies
    # behind the loop and belongs to it; what no branch reaches is padding.
    assert counts.loop_iterations == 5
    assert counts.loop == {"exp": 2, "FP32": 1, "memory": 1, "shared": 1, "vector": 0, "scalar": 3}
    assert counts.exps == 1 + 5 * 2
    assert counts.kinds["scalar"] == 1 + 5 * 3 + 1


def test_packed_and_dual_instructions_of_amd() -> None:
    text = "\tv_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[6:7]\n\tv_dual_mul_f32 v1, v2, v3 :: v_dual_add_f32 v4, v5, v6\n"
    text += (
        "\tv_exp_f32_e32 v1, v1\n\tv_add_u32_e32 v1, v2, v3\n\ts_add_i32 s1, s2, s3\n.Lfunc_end0:\n\tv_exp_f32 v0, v0\n"
    )
    instructions, _ = read_amdgcn(text)
    assert [i.kind for i in instructions] == ["FP32", "FP32", "exp", "vector", "scalar"]
    assert [(i.fmas, i.flops) for i in instructions[:2]] == [(2, 4), (2, 2)]


def test_bounds_worked_out_by_hand() -> None:
    work = Work(bytes=2039_000_000, transcendentals=16e6, fmas=64e6, issued=4e6, programs=109)
    # 109 programs on 108 cores: one core has two. 16e6 transcendentals at 16 a clock take 1e6 clocks of 1.41 GHz.
    assert bounds(A100, work) == pytest.approx(
        {"memory": 1e-3, "transcendental": 2e6 / 1.41e9, "FMA": 2e6 / 1.41e9, "issue": 2e6 / 1.41e9}
    )


def test_occupancy_worked_out_by_hand() -> None:
    # 128 registers: 16384 of a scheduler hold 4 warps of 32, of 16 at most.
    assert occupancy(H100, registers=128, shared=0, warps=1) == 16 / 64
    # 100 registers are allocated as 104: 4 warps again.
    assert occupancy(H100, registers=100, shared=0, warps=4) == 16 / 64
    # Few registers, one warp a program: 32 programs fill half of the 64 warps.
    assert occupancy(A100, registers=32, shared=0, warps=1) == 0.5
    # 164 KiB hold 3 programs of 50 KiB.
    assert occupancy(A100, registers=32, shared=50 * 1024, warps=4) == 12 / 64
    # 512 registers a lane: 5 wavefronts of 96, of 8 at most.
    assert occupancy(MI300X, registers=96, shared=0, warps=1) == 20 / 32


def test_trace_of_a_forward() -> None:
    traced = trace_forward("test_nano", 64)
    operations = [item for item in traced if isinstance(item, Operation)]
    convolution = next(item for item in operations if item.group == "patch convolutions")
    assert convolution.flops == 2 * 16 * 16 * 16 * 3 * 7 * 7
    # Bytes of bfloat16: image, weight, bias, output.
    assert convolution.bytes == 2 * (3 * 64 * 64 + 16 * 3 * 7 * 7 + 16 + 16 * 16 * 16)
    scans = [item for item in traced if isinstance(item, OperatorCall) and item.name == "selective_scan"]
    # Kept tokens of each grid and one token for each of its rows; twice the channels.
    expected = [
        (16 * 16 // 8 + 16, 32),
        (8 * 8 // 4 + 8, 64),
        (4 * 4 // 2 + 4, 96),
        (4 * 4 // 2 + 4, 96),
        (2 * 2 + 2, 128),
    ]
    assert [tuple(scan.arguments[0].shape[2:]) for scan in scans] == expected
    gate = scans[0].arguments[6]
    # The gate is the second half of each row of the input projection.
    assert gate.is_meta
    assert (gate.stride(1), gate.storage_offset()) == (64, 32)


def _row(spills: int = 0, target: str = "sm_90", direction: str = "forward") -> Row:
    kinds = dict.fromkeys(KINDS, 0.0) | {"exp": 20.0, "FP32": 60.0, "memory": 20.0}
    counts = Counts(kinds, 20.0, 60.0, {kind: int(n) for kind, n in kinds.items()}, 1.0, 20)
    compiled = Compiled(64, spills, 0, 0, 4, 132, counts, 20.0, 3_350_000, 6_700_000)
    return Row("base", 2048, 1, "selective_scan", (2, 1, 33280, 192), direction, "outputs", 3, target, compiled)


def test_sum_over_a_forward() -> None:
    operations = {("base", 2048): [Operation("linear layers", 989_400_000, 0), Operation("top-k", 0, 3_350_000_000)]}
    found = forward_seconds(Report([_row(), _row(direction="backward")], operations), "base", 2048, H100)
    # Three calls whose 3.35 MB take 1 us; modelled, a launch takes 4 us at least. Backward is no part of a forward.
    assert found["selective_scan"] == pytest.approx((3, 3e-6, 12e-6))
    assert found["linear layers"] == pytest.approx((1, 1e-6, 4e-6))
    assert found["top-k"] == pytest.approx((1, 1e-3, 1e-3 / 0.8))


def test_tables_of_the_readme_are_those_of_the_tool() -> None:
    rows = [_row(target=chip.target) for chip in CHIPS]
    made = to_markdown(Report(rows, {("base", 2048): [Operation("linear layers", 1, 1)]}))
    committed = kernel_report.README.read_text().partition(kernel_report.BEGIN)[2].partition(kernel_report.END)[0]

    def structure(text: str) -> list[str]:
        heads = re.findall(r"^(\|.*\|)\n\| ---", text, re.MULTILINE)
        return [*re.findall(r"^###.*", text, re.MULTILINE), *heads]

    assert structure(made) == structure(committed)
    assert "Spills: none on any target." in committed
    # Both arms of a branch and remainders of unrolled loops count; more would be a misread loop.
    error = re.search(r"before: ([\d.]+)% apart", committed)
    assert error is not None
    assert float(error[1]) < 10
    assert json.loads(json.dumps(to_json(Report(rows, {}))))["kernels"][0]["bound_seconds"]["memory"] > 0


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRITON_INTERPRET", "DYNAMICVIS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "README.md"
    file.write_text(f"before\n{kernel_report.BEGIN}\nold tables\n{kernel_report.END}\nafter\n")
    return file


@pytest.mark.parametrize("spills", [0, 3])
def test_command(
    readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spills: int
) -> None:
    report = Report([_row(spills)], {("base", 2048): []})
    monkeypatch.setattr("kernel_model.report.build_report", lambda variants, sizes, targets: report)
    figures = readme.with_name("report.json")
    code = kernel_report.main(["--readme", str(readme), "--json", str(figures)])
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old tables" not in text
    assert json.loads(figures.read_text())["kernels"][0]["compiled"]["spills"] == spills
    message = "selective_scan, outputs (forward) on sm_90: up to 3 registers" if spills else "none on any target"
    assert message in text
    assert message in capsys.readouterr().out
    assert code == (1 if spills else 0)


def test_errors_of_the_command(
    readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        assert kernel_report.main(["--readme", str(readme)]) == 1
        assert "unset TRITON_INTERPRET" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert kernel_report.main(["--readme", str(readme)]) == 1
        assert "pip install triton" in capsys.readouterr().err
    with pytest.raises(ValueError, match="report:begin"):
        kernel_report.insert_report("no markers", "tables")
