"""Timing one call again and again, and the statistics of the times. Standard library only."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

Json = dict[str, Any]


def measure(
    call: Callable[[], object],
    *,
    at_least_ms: float,
    at_least_runs: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> list[int]:
    """Return the duration of each call, in nanoseconds, until both limits are reached."""
    times: list[int] = []
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = clock_ns() + int(at_least_ms * 1e6)
        while True:
            before = clock_ns()
            call()
            after = clock_ns()
            times.append(after - before)
            if after >= end and len(times) >= at_least_runs:
                return times
    finally:
        if enabled:
            gc.enable()


def summary(times_ns: Sequence[int], items: int) -> Json:
    """Return the statistics of *times_ns*, durations of runs of *items* items each.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p99_ms`` (nearest rank above: the time that this share of the runs
        did not exceed), ``mean_ms``, ``std_ms`` (population), ``min_ms``, ``max_ms``; ``spread``
        ((p75 - p25) / p50); ``throughput`` in items per second of measured time; ``runs``;
        ``items``.
    """
    ordered = sorted(times_ns)

    def at(share: float) -> float:
        rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))  # ceil, in integers
        return ordered[rank - 1] / 1e6

    return {
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "mean_ms": statistics.fmean(ordered) / 1e6,
        "std_ms": statistics.pstdev(ordered) / 1e6,
        "min_ms": ordered[0] / 1e6,
        "max_ms": ordered[-1] / 1e6,
        "spread": (at(0.75) - at(0.25)) / at(0.5) if at(0.5) else 0.0,
        "throughput": items * len(ordered) / (sum(ordered) / 1e9) if sum(ordered) else 0.0,
        "runs": len(ordered),
        "items": items,
    }
