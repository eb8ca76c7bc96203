"""skeleton: a graph without its weights' values: what an engine that is refitted depends on."""

from __future__ import annotations

from typing import Final

from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage


def run(ctx: Context) -> Json:
    """Write ``onnx`` with the values of its weights left out.

    It is there to be compared, not to be run: of large tensors that are no weights it has digests.

    Returns:
        ``weights``: how many tensors were emptied; ``bytes``: what they held.

    Raises:
        StageError: the model cannot be read.
    """
    from orchestrator.graphs import files as onnx_files
    from orchestrator.graphs.skeleton import emptied, keep_digests

    model = onnx_files.load(ctx.inputs["onnx"], weights=False)
    count, size = emptied(model)
    keep_digests(model, ctx.inputs["onnx"])
    (ctx.outputs["skeleton"] / "model.onnx").write_bytes(
        model.SerializeToString(deterministic=True)
    )
    return {"weights": count, "bytes": size}


STAGE: Final = Stage(
    name="skeleton",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx",),
    outputs=("skeleton",),
    tools=("onnx", "protobuf"),
    memory=Memory(base_mib=256, per_input=4.0),
    seconds=0.5,
    run=run,
)
