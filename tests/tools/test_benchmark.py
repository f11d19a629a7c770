from __future__ import annotations

import copy
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamicvis_kernels import choose_backend
from tools_helpers import ROOT

from dynamicvis.backbone import DynamicVis

sys.path.append(str(ROOT / "tools"))

import benchmark
from benchmarking import operators, suites, timing
from benchmarking.agreement import check_model, relative_error
from benchmarking.ceiling import run_ceiling
from benchmarking.memory import run_in_fresh_process
from benchmarking.models import build_backbone, build_model, use_reference_mixers
from benchmarking.report import Row
from benchmarking.timing import interleave, summarise

CPU = torch.device("cpu")
SETTINGS = suites.Settings(CPU, torch.float32, repeats=1, budget=60.0)


def run(*arguments: object) -> int:
    return benchmark.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when told to."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


@pytest.fixture
def wrong_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone that is off by one percent, except with the naive kernels."""
    forward = DynamicVis.forward

    def wrong(self: DynamicVis, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = forward(self, images)
        return maps if choose_backend(CPU) == "naive" else tuple(values * 1.01 for values in maps)

    monkeypatch.setattr(DynamicVis, "forward", wrong)


@pytest.mark.parametrize("dense", [False, True], ids=["selection", "dense"])
def test_the_reference_way_gives_our_results(dense: bool) -> None:
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    ours = build_backbone("test_nano", dense)
    reference = use_reference_mixers(copy.deepcopy(ours))
    assert sum(isinstance(module, mamba.MambaMixer) for module in reference.modules()) == 5
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(reference(images), ours(images)) < 1e-4
        for block in reference.modules():
            if isinstance(block, mamba.MambaMixer):
                block.D.mul_(2)
        assert relative_error(reference(images), ours(images)) > 1e-4


def test_gradients_of_the_reference_way_are_ours() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("mambapy")
    agreement = check_model("test_nano-reference", torch.float32, CPU, gradients=True)
    assert agreement is not None
    assert agreement.holds, agreement
    assert agreement.error > 0


def test_without_transformers_the_row_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "transformers.models.mamba.modeling_mamba", None)
    path = tmp_path / "out.json"
    models = ("test_nano", "test_nano-reference")
    assert run("backbone", "--models", *models, "--sizes", 32, "--repeats", 1, "--json", path) == 0
    ours, reference = rows_of(path)
    assert ours["median_s"] > 0
    assert "median_s" not in reference
    assert reference["note"] == 'transformers is not installed: pip install "dynamicvis[bench]"'


def test_a_speed_is_reported_only_where_the_result_agrees(tmp_path: Path, wrong_kernels: None) -> None:
    path = tmp_path / "out.json"
    models = ("test_nano", "test_nano-dense", "resnet18")
    assert run("backbone", "--models", *models, "--sizes", 32, "--repeats", 1, "--json", path) == 1
    ours, dense, resnet = rows_of(path)
    for row in (ours, dense):
        assert "median_s" not in row
        assert row["error"] == pytest.approx(0.01, rel=0.01)
        assert row["note"] == "disagrees with naive: error 1.0e-02, tolerance 1e-04"
    assert resnet["median_s"] > 0


@pytest.mark.parametrize("command", ["train-step", "keep-ratio"])
def test_other_benchmarks_of_models_ask_for_agreement_too(command: str, tmp_path: Path, wrong_kernels: None) -> None:
    path = tmp_path / "out.json"
    which = ("--models", "test_nano", "--sizes", 32) if command == "train-step" else ("--size", 32)
    variant = () if command == "train-step" else ("--variant", "test_nano")
    assert run(command, *which, *variant, "--repeats", 1, "--json", path) == 1
    assert not any("median_s" in row for row in rows_of(path))


@pytest.mark.parametrize("benchmark_name", ["scan", "length"])
def test_a_wrong_scan_has_no_speed(benchmark_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = operators.selective_scan

    def wrong(*inputs: torch.Tensor) -> torch.Tensor:
        result = scan(*inputs)
        if choose_backend(CPU) != "naive":
            result[0, 5, 3] = math.nan
        return result

    monkeypatch.setattr(operators, "selective_scan", wrong)
    path = tmp_path / "out.json"
    assert run(benchmark_name, "--lengths", 32, "--repeats", 1, "--json", path) == 1
    ours, *others = rows_of(path)
    assert ours["model"] == "selective_scan"
    assert "median_s" not in ours
    assert ours["error"] == "inf"
    assert any("median_s" in row for row in others)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_infinite_error(value: float) -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, value, 1.0])
    assert relative_error([good, bad], [good, good]) == math.inf
    assert relative_error([good, good], [bad, good]) == math.inf
    assert relative_error([good, good * 1.5], [good, good]) == 0.5


def test_our_kernels_agree_with_the_naive_ones() -> None:
    for gradients in (False, True):
        agreement = check_model("test_nano", torch.float32, CPU, gradients)
        assert agreement is not None
        assert 0 < agreement.error < agreement.tolerance


def test_contestants_run_in_turn_and_the_first_round_is_not_counted(clock: Callable[[float], None]) -> None:
    order: list[str] = []
    durations = {"a": iter([9.0, 1.0, 2.0, 3.0, 5.0]), "b": iter([0.5] * 5)}

    def contestant(name: str) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            clock(next(durations[name]))

        return call

    result = interleave({name: contestant(name) for name in durations}, repeats=4, budget=100.0, device=CPU)
    assert order == ["a", "b"] * 5
    a = result["a"]
    assert isinstance(a, timing.Timing)
    assert (a.runs, a.median, a.minimum, a.maximum) == (4, 2.5, 1.0, 5.0)
    assert (a.lower_quartile, a.upper_quartile) == (1.75, 3.5)


def test_a_warmed_contestant_runs_unseen_before_each_of_its_runs(clock: Callable[[float], None]) -> None:
    order: list[str] = []
    durations = {"a": iter([50.0, 1.0] * 3), "b": iter([2.0] * 3)}

    def contestant(name: str) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            clock(next(durations[name]))

        return call

    result = interleave({name: contestant(name) for name in durations}, 2, budget=100.0, device=CPU, warmed=["a"])
    assert order == ["a", "a", "b"] * 3
    a = result["a"]
    assert isinstance(a, timing.Timing)
    assert (a.runs, a.median) == (2, 1.0)


@pytest.mark.parametrize(
    ("seconds", "calls", "counted"),
    [
        (10.0, 5, 4),  # below the budget: all repeats
        (40.0, 3, 2),  # the budget is passed by the third run
        (99.0, 2, 1),  # the warm-up leaves room for one
        (100.0, 1, 1),  # the warm-up takes the budget and counts
    ],
)
def test_the_budget_ends_a_contestant_early(
    seconds: float, calls: int, counted: int, clock: Callable[[float], None]
) -> None:
    made: list[str] = []

    def slow() -> None:
        made.append("slow")
        clock(seconds)

    result = interleave({"slow": slow, "fast": lambda: made.append("fast")}, repeats=4, budget=100.0, device=CPU)
    assert made.count("slow") == calls
    assert made.count("fast") == 5
    slow_timing = result["slow"]
    assert isinstance(slow_timing, timing.Timing)
    assert (slow_timing.runs, slow_timing.median) == (counted, seconds)


def test_a_contestant_over_budget_is_skipped_at_larger_sizes(clock: Callable[[float], None]) -> None:
    sweep = suites.Sweep(suites.Settings(CPU, torch.float32, repeats=2, budget=60.0), ["slow", "fast"])
    calls = {"slow": lambda: clock(61.0), "fast": lambda: clock(1.0)}
    first, second = sweep.measure(calls, "512 pixels"), sweep.measure(calls, "1024 pixels")
    assert first["slow"] == summarise([61.0])
    assert second["slow"] == "skipped: 512 pixels took 61 s, over the budget of 60 s"
    assert second["fast"] == summarise([1.0, 1.0])


def test_a_contestant_that_fails_has_a_note_and_stops_nobody() -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    sweep = suites.Sweep(SETTINGS, ["big", "fine"])
    calls: dict[str, Callable[[], object]] = {"big": fails, "fine": lambda: None}
    first, second = sweep.measure(calls, "512 pixels"), sweep.measure(calls, "1024 pixels")
    assert first["big"] == "out of memory"
    assert second["big"] == "skipped: at 512 pixels, out of memory"
    assert isinstance(second["fine"], timing.Timing)


def test_measured_memory_is_what_a_call_allocates() -> None:
    """In a process of its own, as it is measured: what earlier calls left in the heap would take the allocation."""
    code = (
        "import torch\n"
        "from benchmarking.memory import peak_above_idle\n"
        "cpu, held = torch.device('cpu'), torch.ones(2**26)\n"
        "for mebibytes in (64, 192):\n"
        "    print(peak_above_idle(lambda: torch.ones(mebibytes * 2**18), cpu)[1])\n"
        "print(peak_above_idle(lambda: held.sum(), cpu)[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), *filter(None, sys.path)])}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    first, second, nothing = map(float, process.stdout.split())
    assert 63 < first < 80
    assert 191 < second < 208
    assert nothing < 16


def test_a_fresh_process_measures_a_model() -> None:
    result = run_in_fresh_process({"model": "test_nano", "size": 512, "device": "cpu", "dtype": "float32"})
    # At least the largest map and the largest tokens: 128 x 128 x 16 values of four bytes each.
    assert 2 < result["peak_mib"] < 100
    assert result["idle_mib"] > 50
    assert result["seconds"] > 0


def test_a_process_that_ends_badly_has_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    assert run_in_fresh_process({"model": "test_nano"}) == {"note": "killed by signal 9, out of memory"}


@pytest.mark.parametrize(("cached", "states"), [(False, 4), (True, 16)])
def test_the_ceiling_does_the_arithmetic_it_claims(cached: bool, states: int) -> None:
    threads, lanes = torch.get_num_threads(), 8
    result = run_ceiling(threads * lanes * 16 * 3, torch.float64, cached=cached)
    assert result.shape == (threads, lanes)
    delta, h, y = -1e-4, [-1e-4] * states, 0.0
    for _ in range(3):
        delta = delta * 0.999 - 0.0001
        for n in range(16):
            h[n % states] = 2.0 ** ((n + 1) * delta) * h[n % states] + delta * (16 - n)
            y += h[n % states] * (16 - n)
    torch.testing.assert_close(result, torch.full_like(result, y), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("cached", "states"), [(False, 4), (True, 16)])
def test_the_whole_ceiling_has_softplus_skip_and_gate(cached: bool, states: int) -> None:
    threads, lanes = torch.get_num_threads(), 8
    result = run_ceiling(threads * lanes * 16 * 4, torch.float64, shared=True, cached=cached)
    raw, h, y, out = -1e-4, [-1e-4] * states, 0.0, 0.0
    for t in range(4):
        raw = raw * 0.999 - 0.0001
        delta = -math.log1p(math.exp(raw))
        for n in range(16):
            h[n % states] = 2.0 ** ((n + 1) * delta) * h[n % states] + delta * (16 - n)
            y += h[n % states] * (16 - n)
        y += -1e-4 * raw
        if t % 2:
            out += y * raw / (1 + math.exp(-raw)) * 0.5
    torch.testing.assert_close(result, torch.full_like(result, out), rtol=1e-12, atol=0)


def test_the_exponent_is_the_slope_on_logarithmic_axes() -> None:
    rows = [Row("length", "m", "float32", length=n, median_s=3e-9 * n**1.5) for n in (100, 1000, 5000)]
    assert operators.fit_exponent(rows) == pytest.approx(1.5)
    assert operators.fit_exponent(rows[:1]) is None


def test_every_attention_of_the_vit_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    attention = torch.nn.functional.scaled_dot_product_attention
    allowed: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        allowed.append(torch.backends.cuda.math_sdp_enabled())
        return attention(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = build_model("vit-b-16")
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, 1 + 4 * 2, 768)
    assert allowed == [False] * 12


def test_keep_ratios_change_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    forward = DynamicVis.forward

    def watched(self: DynamicVis, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.record_selection = True
        maps = forward(self, images)
        kept.append(self.last_selection[0].indices.shape[1] if self.last_selection else -1)
        return maps

    monkeypatch.setattr(DynamicVis, "forward", watched)
    rows = suites.keep_ratio(SETTINGS, "test_nano", 64)
    assert [row.keep_ratios[0] if row.keep_ratios else None for row in rows] == [
        1 / 32,
        1 / 16,
        1 / 8,
        0.25,
        0.5,
        1,
        None,
    ]
    # Warm-up and one counted run of each, in the order of the rows; the last has no selection.
    assert kept[-14:] == [8, 16, 32, 64, 128, 256, -1] * 2


def test_a_train_step_changes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    monkeypatch.setattr(suites, "build_model", lambda name: models.append(build_model(name)) or models[-1])
    (row,) = suites.train_step(SETTINGS, ["test_nano"], [32])
    before = build_model("test_nano").state_dict()
    changed = [key for key, value in models[0].state_dict().items() if not torch.equal(value, before[key])]
    assert set(changed) == set(before)
    assert row.batch == suites.TRAIN_BATCH
    assert row.error is not None


def test_json_and_csv_hold_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "out.json", tmp_path / "out.csv"
    models = ("test_nano", "resnet18")
    arguments = ("backbone", "--models", *models, "--sizes", 32, 64, "--repeats", 3)
    assert run(*arguments, "--json", paths[0], "--csv", paths[1]) == 0
    report = json.loads(paths[0].read_text())
    environment = report["environment"]
    assert environment["threads"] == torch.get_num_threads()
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert {"cpu", "cores", "git_commit", "git_dirty", "time"} <= environment.keys()
    assert report["command"][:2] == ["backbone", "--models"]
    assert "budget" in report["rules"]["timing"]
    rows = report["rows"]
    assert [(row["model"], row["size"]) for row in rows] == [(model, size) for size in (32, 64) for model in models]
    for row in rows:
        quartiles = row["lower_quartile_s"], row["median_s"], row["upper_quartile_s"]
        assert 0 < row["min_s"] <= quartiles[0] <= quartiles[1] <= quartiles[2] <= row["max_s"]
        assert (row["runs"], row["dtype"], row["batch"]) == (3, "float32", 1)
        assert ("error" in row) == (row["model"] == "test_nano")
    with paths[1].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [{key: value for key, value in line.items() if value} for line in table] == [
        {key: str(value) for key, value in row.items()} for row in rows
    ]
    printed = capsys.readouterr().out
    assert "resnet18" in printed
    assert "median s" in printed


def test_all_runs_the_plan_into_one_report_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = (
        ["backbone", "--models", "test_nano", "resnet18", "--sizes", "32", "64"],
        ["length", "--lengths", "32", "64"],
        ["keep-ratio", "--variant", "test_nano", "--size", "64"],
    )
    monkeypatch.setattr(benchmark, "PLAN", plan)
    out = tmp_path / "docs"
    assert run("all", "--out", out, "--repeats", 1) == 0
    report = json.loads((out / "benchmark.json").read_text())
    assert {row["benchmark"] for row in report["rows"]} == {"backbone", "length", "keep-ratio"}
    assert report["exponents"].keys() == {"selective_scan", "fused attention"}
    for name in ("benchmark_size", "benchmark_cost"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_plan_is_made_of_valid_commands() -> None:
    parser = benchmark.make_parser()
    assert {parser.parse_args(part).benchmark for part in benchmark.PLAN} == {
        "scan", "backbone", "train-step", "length", "keep-ratio", "memory"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("backbone", "--sizes", "100"), "multiple of 32"),
        (("backbone", "--models", "huge"), "huge"),
        (("scan", "--repeats", "0"), "must be positive"),
        (("plot", "missing.json", "--out", "."), "missing.json"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("scan", "--device", "cuda")
    assert "--device cpu" in capsys.readouterr().err
