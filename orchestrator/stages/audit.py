"""audit: the precision in which an artifact is stored and really computes."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import Job, backend, tools_of
from orchestrator.errors import StageError
from orchestrator.numerics.batches import Batch, read_batch, read_index
from orchestrator.numerics.precision import audit_values
from orchestrator.stages.base import Context, Json, Repeats, Scope, Stage


def run(ctx: Context) -> Json:
    """Run ``model`` once on an ``opt`` batch of ``samples`` under the runtime's profiler.

    Returns:
        The values of :func:`orchestrator.numerics.precision.audit_values`. ``refuted`` is a value,
        not an error: the verdict is applied where the variant is judged.

    Raises:
        StageError: the runtime refuses the model or the samples.
    """
    target = ctx.params["target"]
    feeds = read_batch(ctx.inputs["samples"], measured_batch(read_index(ctx.inputs["samples"])))
    job = Job(scratch=ctx.scratch, log=ctx.log, threads=1)
    observed = backend(target["backend"]).observe(ctx.inputs["model"], target, feeds, job)
    values = audit_values(observed, ctx.params["precision"])
    ctx.log(f"{values['verdict']}: {values['reason']}")
    return values


def measured_batch(batches: list[Batch]) -> Batch:
    """Return the first ``opt`` batch, or the first of all where there is none.

    Raises:
        StageError: there are no batches.
    """
    if not batches:
        raise StageError("there are no sample batches to run on", where="model.samples")
    return next((batch for batch in batches if batch.point == "opt"), batches[0])


STAGE: Final = Stage(
    name="audit",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("model", "samples"),
    tools=tools_of,
    scope=Scope.CPU,
    run=run,
)
