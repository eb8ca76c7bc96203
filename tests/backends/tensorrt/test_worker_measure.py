"""How worker.py measures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.tensorrt import worker
from orchestrator.numerics import timing


@given(
    times=st.lists(st.integers(1, 10**9), min_size=1, max_size=300),
    items=st.integers(1, 64),
)
def test_statistics_are_those_of_the_benchmark_stage(times: list[int], items: int) -> None:
    here = worker.summary([time / 1e6 for time in times], items)
    there = timing.summary(times, items)
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert math.isclose(here[name], value, rel_tol=1e-9, abs_tol=1e-12), name


def test_runs_are_repeated_until_both_limits_are_reached() -> None:
    now = [0.0]

    def once() -> None:
        now[0] += 0.01

    assert worker.repeat(once, 55.0, 1, lambda: now[0]) == 6
    assert worker.repeat(once, 0.0, 4, lambda: now[0]) == 4
    assert worker.repeat(once, 0.0, 0, lambda: now[0]) == 1


@pytest.mark.parametrize(
    ("protocol", "pairs"),
    [
        ({}, [(False, False)]),
        ({"transfers": True}, [(False, False), (False, True)]),
        (
            {"cuda_graph": True, "transfers": True},
            [(False, False), (False, True), (True, False), (True, True)],
        ),
    ],
)
def test_what_was_asked_for_is_measured_last(
    protocol: dict[str, bool], pairs: list[tuple[bool, bool]]
) -> None:
    assert worker.combinations(protocol) == pairs


def test_without_nvml_every_clock_is_unknown() -> None:
    nvml = worker.Nvml("GPU-00000000-0000-0000-0000-000000000000")
    assert set(nvml.clocks().values()) == {None}
    assert nvml.clocks().keys() >= {"sm_clock_mhz", "temperature_c", "throttle_reasons"}
    assert worker.Neighbours(nvml).seen() == []
