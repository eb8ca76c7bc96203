"""benchmark: latency and throughput of an artifact, alone on the machine."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import backend, job_of, scope_of, tools_of
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage, Use

#: Raised whenever what is timed, or how, changes: measurements of two protocols are not compared.
PROTOCOL: Final = 1


def run(ctx: Context) -> Json:
    """Measure ``model`` on batches of ``samples`` as the backend times itself.

    ONNX Runtime: one plain call with NumPy arrays in and out, as a user makes it. TensorRT: the
    host's clock and CUDA events, with and without transfers and CUDA graph.

    Returns:
        The statistics of :func:`orchestrator.numerics.timing.summary`, ``protocol``, and what the
        backend adds: ``threads``, ``machine``, ``dims``, ``measurements``.

    Raises:
        StageError: the runtime refuses the model or the samples.
    """
    target, settings = ctx.params["target"], ctx.params["benchmark"]
    job = job_of(ctx, threads=settings.get("threads", 1))
    runtime = backend(target["backend"])
    found = runtime.benchmark(ctx.inputs["model"], ctx.inputs["samples"], settings, target, job)
    return {**found, "protocol": PROTOCOL}


STAGE: Final = Stage(
    name="benchmark",
    version=PROTOCOL,
    repeats=Repeats.MEASUREMENT,
    inputs=("model", "samples"),
    tools=tools_of,
    scope=scope_of,
    exclusive=True,
    device=Use.ALONE,
    memory=Memory(base_mib=512, per_input=4.0),
    seconds=3.0,
    run=run,
)
