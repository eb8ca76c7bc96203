"""Times of single runs, on the host's clock and between two CUDA events on the engine's stream.

The windows are those of the TensorRT worker's timer: clock, first event, the call, second event,
wait for the stream, clock. What the events say is read when the clock has been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from orchestrator.numerics.timing import measure, summary

Json = dict[str, Any]

#: At most so many runs are enqueued without waiting for each other.
_QUEUED_RUNS: Final = 1000


class Gpu(Protocol):
    """A stream, and two events on it."""

    def begin(self) -> None:
        """Record the first event."""

    def end(self) -> None:
        """Record the second event."""

    def wait(self) -> None:
        """Wait until everything enqueued is done."""

    def elapsed_ms(self) -> float:
        """Return the time between the two events, both of which are done."""


class CudaEvents:
    """:class:`Gpu` by ``torch.cuda``."""

    def __init__(self, stream: Any) -> None:
        import torch

        self._stream = stream
        event: Any = torch.cuda.Event  # not annotated
        self._first, self._last = event(enable_timing=True), event(enable_timing=True)

    def begin(self) -> None:
        """Record the first event."""
        self._first.record(self._stream)

    def end(self) -> None:
        """Record the second event."""
        self._last.record(self._stream)

    def wait(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def elapsed_ms(self) -> float:
        """Return the time between the two events."""
        return float(self._first.elapsed_time(self._last))


class Stopwatch:
    """Makes a call again and again, and times each."""

    def __init__(
        self,
        call: Callable[[], object],
        gpu: Gpu | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Time *call*, which enqueues work on *gpu*, or without one is done when it returns."""
        self._call, self._gpu, self._clock_ns = call, gpu, clock_ns
        self._recorded = False
        self._event_ns: list[int] = []

    def measured(self, protocol: Mapping[str, Any], items: int) -> Json:
        """Warm up and measure as *protocol* (``warmup_ms``, ``measure_ms``, ``min_runs``) says.

        Args:
            protocol: The Benchmark group.
            items: Items in a run.

        Returns:
            ``host`` and ``event`` (None without a GPU):
            :func:`orchestrator.numerics.timing.summary` of each; ``queued_ms``: mean milliseconds
            of runs that do not wait for each other (None without a GPU).
        """
        self._repeat(protocol["warmup_ms"], 1)
        self._event_ns.clear()
        host_ns = self._repeat(protocol["measure_ms"], protocol["min_runs"])
        return {
            "host": summary(host_ns, items),
            "event": summary(self._event_ns, items) if self._gpu else None,
            "queued_ms": self._queued_ms(min(len(host_ns), _QUEUED_RUNS)),
        }

    def _repeat(self, at_least_ms: float, at_least_runs: int) -> list[int]:
        return measure(
            self._once, at_least_ms=at_least_ms, at_least_runs=at_least_runs, clock_ns=self._now_ns
        )

    def _once(self) -> None:
        if self._gpu is None:
            self._call()
            return
        self._gpu.begin()
        self._call()
        self._gpu.end()
        self._gpu.wait()
        self._recorded = True

    def _now_ns(self) -> int:
        """Read the clock; only then the events of the run that has just ended."""
        now = self._clock_ns()
        if self._recorded and self._gpu is not None:
            self._event_ns.append(round(self._gpu.elapsed_ms() * 1e6))
            self._recorded = False
        return now

    def _queued_ms(self, runs: int) -> float | None:
        if self._gpu is None:
            return None
        begun = self._clock_ns()
        for _ in range(runs):
            self._call()
        self._gpu.wait()
        return (self._clock_ns() - begun) / 1e6 / runs
