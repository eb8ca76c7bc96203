"""A session at work: on all batches of samples, and against the clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.base import Job, Json, Target, check_outputs
from orchestrator.backends.onnxruntime.installed import cpu_target
from orchestrator.backends.onnxruntime.session import open_session
from orchestrator.errors import StageError
from orchestrator.numerics.batches import Batch, measured_batch, read_batch, read_index
from orchestrator.numerics.timing import measure, summary

if TYPE_CHECKING:
    import numpy as np


def run(
    model: Path, samples: Path, wanted: Sequence[str], target: Target, job: Job
) -> Iterator[tuple[Batch, dict[str, np.ndarray[Any, Any]]]]:
    """Yield the *wanted* outputs of every batch of *samples*, one batch in memory at a time.

    Raises:
        StageError: an output is missing, samples do not fit the inputs, or a node fails.
    """
    batches = read_index(samples)
    if target.get("widen_bf16"):
        model = _widened(model, job)
    with open_session(model, target, job) as runner:
        check_outputs([port.name for port in runner.outputs], wanted, "the model")
        for number, batch in enumerate(batches):
            feeds = read_batch(samples, batch)
            try:
                outputs = runner(feeds)
            except StageError:
                dims = dict(batch.dims)
                job.log(f"failed in batch {batch.file}, point {batch.point}, dims {dims}")
                raise
            yield batch, {name: outputs[name] for name in wanted}
            job.progress((number + 1) / len(batches), f"batch {number + 1} of {len(batches)}")


def benchmark(model: Path, samples: Path, settings: Json, target: Target, job: Job) -> Json:
    """Measure *model* on the first ``opt`` batch of *samples* with ``job.threads`` threads.

    What is timed is one plain call with NumPy arrays in and out, as a user makes it: Python's call
    overhead and the allocation of outputs are inside, on the CPU inputs are not copied. Warm-up
    runs first for ``warmup_ms`` (and at least once); then runs are timed one by one, with the
    garbage collector off, until both ``measure_ms`` have passed and ``min_runs`` were made.

    Returns:
        :func:`orchestrator.numerics.timing.summary` of the times, ``threads``, ``machine`` and
        ``dims`` of the batch.

    Raises:
        StageError: ONNX Runtime refuses the model or the samples.
    """
    batch = measured_batch(samples)
    with open_session(model, target, job) as runner:
        call = runner.repeated(read_batch(samples, batch))
        job.progress(0.0, "warm-up")
        measure(call, at_least_ms=settings["warmup_ms"], at_least_runs=1)
        job.progress(0.2, "measuring")
        times = measure(
            call, at_least_ms=settings["measure_ms"], at_least_runs=settings["min_runs"]
        )
    return {
        **summary(times, batch.items),
        "threads": job.threads,
        "machine": cpu_target(),
        "dims": dict(batch.dims),
    }


def _widened(model: Path, job: Job) -> Path:
    """Return *model* as an fp32 model that rounds as bf16 does: there are no CPU kernels for it."""
    from orchestrator.graphs import files as onnx_files
    from orchestrator.numerics.widen import widen_bf16

    wide = job.scratch / "wide"
    wide.mkdir()
    onnx_files.save(widen_bf16(onnx_files.load(model)), wide)
    return wide
