from __future__ import annotations

import gc
from pathlib import Path

import pytest

from orchestrator.errors import StageError
from orchestrator.numerics import timing
from orchestrator.stages import benchmark
from orchestrator.stages.base import Repeats
from tests.backends import nets
from tests.stage_context import run_stage

SETTINGS = {"warmup_ms": 0.0, "measure_ms": 0.1, "min_runs": 7, "threads": 1}


def test_a_measurement_says_what_was_measured(tmp_path: Path) -> None:
    tree = nets.save(nets.matmul_net(), tmp_path / "onnx")
    samples = nets.samples(tmp_path / "samples", 8, sizes=(1, 4))
    values = run_stage(
        benchmark.STAGE,
        tmp_path,
        {"target": nets.TARGET, "benchmark": SETTINGS},
        {"model": tree, "samples": samples},
    ).values
    assert values["runs"] >= 7
    assert values["items"] == 4  # the opt batch, not the first
    assert values["dims"] == {"n": 4}
    assert 0 < values["min_ms"] <= values["p50_ms"] <= values["p90_ms"] <= values["p99_ms"]
    assert values["throughput"] > 0
    assert values["machine"]["model"]
    assert values["protocol"] == benchmark.PROTOCOL
    assert benchmark.STAGE.exclusive
    assert benchmark.STAGE.repeats is Repeats.MEASUREMENT
    assert gc.isenabled()


def test_unfit_samples_are_refused_before_timing(tmp_path: Path) -> None:
    tree = nets.save(nets.matmul_net(), tmp_path / "onnx")
    samples = nets.samples(tmp_path / "samples", 9)
    params = {"target": nets.TARGET, "benchmark": SETTINGS}
    with pytest.raises(StageError, match="input 'x' takes"):
        run_stage(benchmark.STAGE, tmp_path, params, {"model": tree, "samples": samples})


@pytest.mark.parametrize(
    ("at_least_ms", "at_least_runs", "expected"), [(10.0, 3, 10), (10.0, 30, 30), (0.0, 1, 1)]
)
def test_both_limits_are_reached(at_least_ms: float, at_least_runs: int, expected: int) -> None:
    now = 0
    collecting: list[bool] = []

    def call() -> None:
        nonlocal now
        now += 1_000_000
        collecting.append(gc.isenabled())

    times = timing.measure(
        call, at_least_ms=at_least_ms, at_least_runs=at_least_runs, clock_ns=lambda: now
    )
    assert times == [1_000_000] * expected
    assert not any(collecting)
    assert gc.isenabled()


def test_the_collector_comes_back_after_a_failure() -> None:
    def call() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        timing.measure(call, at_least_ms=1, at_least_runs=1)
    assert gc.isenabled()


def test_statistics_by_nearest_rank() -> None:
    found = timing.summary([n * 1_000_000 for n in range(100, 0, -1)], items=4)
    assert [found[name] for name in ("min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")] == [
        1, 50, 90, 99, 100
    ]  # fmt: skip
    assert found["mean_ms"] == 50.5
    assert found["spread"] == pytest.approx((75 - 25) / 50)
    assert found["throughput"] == pytest.approx(4 * 100 / 5.05)
    single = timing.summary([2_000_000], items=1)
    assert (single["p50_ms"], single["p99_ms"], single["std_ms"]) == (2, 2, 0)
