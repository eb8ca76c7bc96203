"""Canonicalize: what does not change a model's meaning does not change its bytes."""

from __future__ import annotations

from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage


def run(ctx: Context) -> Json:
    """Write the canonical form of the model to ``onnx``; weights outside the file are not loaded.

    Returns:
        ``nodes``, ``opset`` and ``weights_bytes``.
    """
    from orchestrator.graphs import canonical
    from orchestrator.graphs import files as onnx_files

    model = onnx_files.load(ctx.inputs["onnx"], weights=False)
    canonical.canonicalize(model)
    facts = onnx_files.facts(model)
    onnx_files.check(onnx_files.save(model, ctx.outputs["onnx"], source=ctx.inputs["onnx"]))
    return {"nodes": facts.nodes, "opset": facts.opset, "weights_bytes": facts.weights_bytes}


STAGE = Stage(
    name="canonicalize",
    version=1,
    repeats=Repeats.BYTES,
    inputs=("onnx",),
    outputs=("onnx",),
    tools=("onnx",),
    memory=Memory(base_mib=256, per_input=5.0),
    seconds=0.5,
    run=run,
)
