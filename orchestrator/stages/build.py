"""build: the verified ONNX model becomes what the target's runtime loads."""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import Built, backend, job_of, scope_of, tools_of
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage, Use


def run(ctx: Context) -> Json:
    """Build the input tree ``onnx`` for ``params["target"]`` into the output tree ``session``.

    ``samples`` are calibration batches, where the build itself calibrates. ``provenance`` names the
    PyTorch module of each node for messages, and ``skeleton`` is the graph without its weights'
    values; with it ``onnx`` is in no key, because the engine will be refitted. ``base`` is such an
    engine: the stage ``refit`` has it, and runs this too.

    Returns:
        What the backend says of it; at least ``bytes``.

    Raises:
        StageError: the runtime refuses the model, or what it wrote does not load again.
    """
    target = ctx.params["target"]
    more = Built(**{name: ctx.inputs.get(name) for name in ("samples", "provenance", "base")})
    job = job_of(ctx, threads=ctx.threads)
    runtime = backend(target["backend"])
    return runtime.build(ctx.inputs["onnx"], ctx.outputs["session"], target, job, more)


STAGE: Final = Stage(
    name="build",
    version=1,
    repeats=Repeats.VERDICT,
    inputs=("onnx", "samples?", "provenance?", "skeleton?"),
    outputs=("session",),
    tools=tools_of,
    scope=scope_of,
    device=Use.ALONE,
    memory=Memory(base_mib=1024, per_input=5.0),
    seconds=20.0,
    run=run,
)
