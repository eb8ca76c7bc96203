"""build: the verified ONNX model becomes what the target's runtime loads."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import Job, backend, tools_of
from orchestrator.stages.base import Context, Json, Repeats, Scope, Stage


def run(ctx: Context) -> Json:
    """Build the input tree ``onnx`` for ``params["target"]`` into the output tree ``session``.

    Returns:
        What the backend says of it; at least ``bytes``.

    Raises:
        StageError: the runtime refuses the model, or what it wrote does not load again.
    """
    target = ctx.params["target"]
    job = Job(scratch=ctx.scratch, log=ctx.log, threads=ctx.threads)
    return backend(target["backend"]).build(ctx.inputs["onnx"], ctx.outputs["session"], target, job)


STAGE: Final = Stage(
    name="build",
    version=1,
    repeats=Repeats.VERDICT,
    inputs=("onnx",),
    outputs=("session",),
    tools=tools_of,
    scope=Scope.CPU,
    run=run,
)
