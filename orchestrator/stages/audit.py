"""audit: the precision in which an artifact is stored and really computes."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import backend, job_of, scope_of, tools_of
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage, Use


def run(ctx: Context) -> Json:
    """Look at ``model`` through its runtime, on an ``opt`` batch of ``samples``.

    ``onnx`` is the model that it was built from: with it an engine's layers have exact FLOPs.

    Returns:
        The values of :func:`orchestrator.numerics.precision.audit_values`, and what the backend
        adds. ``refuted`` is a value, not an error: the verdict is applied where the variant is
        judged.

    Raises:
        StageError: the runtime refuses the model or the samples.
    """
    target = ctx.params["target"]
    values = backend(target["backend"]).audit(
        ctx.inputs["model"],
        ctx.inputs.get("onnx"),
        ctx.inputs["samples"],
        ctx.params["precision"],
        target,
        job_of(ctx),
    )
    ctx.log(f"{values['verdict']}: {values['reason']}")
    return values


STAGE: Final = Stage(
    name="audit",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("model", "onnx?", "samples"),
    tools=tools_of,
    scope=scope_of,
    device=Use.SHARED,
    memory=Memory(base_mib=512, per_input=5.0),
    seconds=1.0,
    run=run,
)
