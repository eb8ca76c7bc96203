"""Import: an existing ``.onnx`` file enters the chain, checked against what the user declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import StageError
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage

if TYPE_CHECKING:
    from onnx import ValueInfoProto

WHERE = "model.onnx"


def run(ctx: Context) -> Json:
    """Copy the file ``ctx.paths['onnx']`` and its external data into ``onnx``.

    Every file read is recorded. Initializers listed among the graph inputs (files of IR 3) are no
    longer inputs; symbolic dimensions get the declared names.

    Returns:
        ``opset`` and ``nodes`` of the file.

    Raises:
        StageError: when the file or its data are missing, truncated, invalid or outside its
            folder, or names,
            dtypes or shapes differ from those declared.
    """
    from orchestrator.exporters import contract
    from orchestrator.graphs import files as onnx_files

    path = ctx.paths.get("onnx")
    if path is None or not path.is_file():
        raise StageError(
            f"the file {path or ''} does not exist", where=WHERE, hint="check the path"
        )
    path = ctx.observe.file(path)
    model = onnx_files.load_file(path, weights=False)
    folder = path.parent.resolve()
    for name in onnx_files.external_files(model, path.parent):
        data = path.parent / name
        if not data.resolve().is_relative_to(folder):
            raise StageError(
                f"external data file '{name}' is a link that leaves the model's folder",
                where=WHERE,
                hint="copy the data into the folder",
            )
        ctx.observe.file(data)
    inputs, outputs, dims = ctx.params["inputs"], ctx.params["outputs"], ctx.params["dims"]
    stored = {tensor.name for tensor in model.graph.initializer} - set(inputs)
    kept = [_copy(value) for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # before IR 4 every initializer had to be an input
    contract.check_ports(model, inputs, outputs, dims, where=WHERE)
    contract.rename_dims(model, inputs, dims)
    facts = onnx_files.facts(model)
    onnx_files.check(onnx_files.save(model, ctx.outputs["onnx"], source=path.parent))
    return {"opset": facts.opset, "nodes": facts.nodes}


def _copy(value: ValueInfoProto) -> ValueInfoProto:
    copied = type(value)()
    copied.CopyFrom(value)
    return copied


STAGE = Stage(
    name="import_onnx",
    version=1,
    repeats=Repeats.BYTES,
    outputs=("onnx",),
    tools=("onnx",),
    user_code=True,
    memory=Memory(base_mib=256, per_input=4.0),
    seconds=1.0,
    run=run,
)
