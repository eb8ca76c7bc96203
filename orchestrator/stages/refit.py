"""refit: an engine of the same graph takes the model's weights, instead of being built."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import Built, backend, job_of, scope_of, tools_of
from orchestrator.stages.base import Context, Json, Repeats, Stage, Use


def run(ctx: Context) -> Json:
    """Put the weights of ``onnx`` into the engine ``base``, or build where that is not possible.

    Returns:
        What the backend says of it; at least ``bytes`` and ``refitted``: true, or false with
        ``reason``.

    Raises:
        StageError: the runtime refuses the model.
    """
    target = ctx.params["target"]
    more = Built(base=ctx.inputs["base"], provenance=ctx.inputs.get("provenance"))
    job = job_of(ctx, threads=ctx.threads)
    runtime = backend(target["backend"])
    return runtime.build(ctx.inputs["onnx"], ctx.outputs["session"], target, job, more)


STAGE: Final = Stage(
    name="refit",
    version=1,
    repeats=Repeats.VERDICT,
    inputs=("base", "onnx", "provenance?"),
    outputs=("session",),
    tools=tools_of,
    scope=scope_of,
    device=Use.ALONE,
    run=run,
)
