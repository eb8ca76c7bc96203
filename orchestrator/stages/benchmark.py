"""benchmark: latency and throughput of an artifact, alone on the machine."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.backends.base import Job, backend, tools_of
from orchestrator.numerics.batches import read_batch, read_index
from orchestrator.stages.audit import measured_batch
from orchestrator.stages.base import Context, Json, Repeats, Scope, Stage

#: Raised whenever what is timed, or how, changes: measurements of two protocols are not compared.
PROTOCOL: Final = 1


def run(ctx: Context) -> Json:
    """Measure ``model`` on the first ``opt`` batch of ``samples``.

    What is timed is one plain call with NumPy arrays in and out, as a user makes it: Python's call
    overhead and the allocation of outputs are inside, on the CPU inputs are not copied. Warm-up
    runs first for ``warmup_ms`` (and at least once); then runs are timed one by one, with the
    garbage collector off, until both ``measure_ms`` have passed and ``min_runs`` were made.

    Returns:
        :func:`summary` of the times, ``threads``, ``protocol``, ``machine`` (the backend's identity
        of it), ``dims`` and ``items`` of the batch.

    Raises:
        StageError: the runtime refuses the model or the samples.
    """
    target, settings = ctx.params["target"], ctx.params["benchmark"]
    batch = measured_batch(read_index(ctx.inputs["samples"]))
    feeds = read_batch(ctx.inputs["samples"], batch)
    runtime = backend(target["backend"])
    job = Job(scratch=ctx.scratch, log=ctx.log, threads=settings["threads"])
    with runtime.open(ctx.inputs["model"], target, job) as runner:
        call = runner.repeated(feeds)
        ctx.progress(0.0, "warm-up")
        measure(call, at_least_ms=settings["warmup_ms"], at_least_runs=1)
        ctx.progress(0.2, "measuring")
        times = measure(
            call, at_least_ms=settings["measure_ms"], at_least_runs=settings["min_runs"]
        )
    return {
        **summary(times, batch.items),
        "threads": settings["threads"],
        "protocol": PROTOCOL,
        "machine": runtime.identity(target),
        "dims": dict(batch.dims),
    }


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


STAGE: Final = Stage(
    name="benchmark",
    version=PROTOCOL,
    repeats=Repeats.MEASUREMENT,
    inputs=("model", "samples"),
    tools=tools_of,
    scope=Scope.CPU,
    exclusive=True,
    run=run,
)
