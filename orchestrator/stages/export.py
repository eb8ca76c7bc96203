"""Export: the user's PyTorch module becomes an ONNX file that is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StageError
from orchestrator.stages.base import Context, Json, Memory, Repeats, Stage

if TYPE_CHECKING:
    import torch

    from orchestrator.numerics.batches import Batch


def _tools(params: Mapping[str, Any]) -> tuple[str, ...]:
    if params["exporter"]["name"] == "dynamo":
        return ("torch", "onnx", "onnxscript", "onnx-ir")
    return ("torch", "onnx")


def run(ctx: Context) -> Json:
    """Export the module to ``onnx`` and where its nodes came from to ``provenance``.

    Returns:
        ``opset``, ``producer`` and ``nodes`` of the file.

    Raises:
        StageError: when the module cannot be made, called or exported, or the file differs from
            what was asked
            for in a way that cannot be put right.
    """
    import json

    import torch

    from orchestrator.exporters import contract, dynamo, torchscript
    from orchestrator.exporters.request import ExportRequest, axes_of
    from orchestrator.graphs import files as onnx_files
    from orchestrator.graphs.canonical import strip_origins
    from orchestrator.modules import calls
    from orchestrator.modules import loading as models

    params = ctx.params
    inputs, outputs, dims = params["inputs"], params["outputs"], params["dims"]
    ctx.progress(0.0, "loading the model")
    module = models.load_module(ctx)
    points = _points(ctx)
    axes = axes_of(inputs, dims)

    ctx.progress(0.1, "running the model on samples")
    shapes: dict[str, list[list[int]]] = {name: [] for name in outputs}
    dtypes: dict[str, str] = {}
    with torch.inference_mode(), ctx.observe.calling():
        for _, tensors in points:
            for name, tensor in zip(outputs, calls.call(module, tensors, outputs), strict=True):
                shapes[name].append(list(tensor.shape))
                dtypes[name] = str(tensor.dtype).removeprefix("torch.")

    ctx.progress(0.3, f"exporting with {params['exporter']['name']}")
    exporter = dynamo.export if params["exporter"]["name"] == "dynamo" else torchscript.export
    with calls.positional(module, list(inputs), outputs) as callable_module, ctx.observe.calling():
        exported = exporter(
            ExportRequest(
                module=callable_module,
                inputs={n: _grown(t, axes[n]) for n, t in points[0][1].items()},
                outputs=outputs,
                axes=axes,
                ranges={n: (low, high) for n, (low, high) in dims.items() if low < high},
                opset=params["exporter"]["opset"],
                constant_folding=params["exporter"].get("constant_folding", True),
                optimize=params["exporter"].get("optimize", True),
                scratch=ctx.scratch,
                log=ctx.log,
            )
        )

    ctx.progress(0.9, "checking the file")
    model = exported.model
    contract.check_opset(model, params["exporter"]["opset"])
    contract.mend_inputs(model, inputs, dims)
    contract.check_ports(model, inputs, outputs, dims, where="export")
    contract.rename_dims(model, inputs, dims)
    contract.check_outputs(model, shapes, [dict(batch.dims) for batch, _ in points], dtypes)
    facts = onnx_files.facts(model)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    strip_origins(model)  # absolute paths of sources: another checkout gives the same bytes
    onnx_files.check(onnx_files.save(model, ctx.outputs["onnx"]))
    (ctx.outputs["provenance"] / "provenance.json").write_text(
        json.dumps(exported.provenance, indent=1, sort_keys=True) + "\n"
    )
    return {"opset": facts.opset, "producer": producer, "nodes": facts.nodes}


def _points(ctx: Context) -> list[tuple[Batch, dict[str, torch.Tensor]]]:
    """Return the first ``opt`` batch, and one batch of other sizes when the samples have one."""
    from orchestrator.modules.calls import input_tensors
    from orchestrator.numerics.batches import read_batch, read_index

    root = ctx.inputs["samples"]
    index = read_index(root)
    if not index:
        raise StageError("there are no samples to export on", where="model.samples")
    first = next((batch for batch in index if batch.point == "opt"), index[0])
    order = {"min": 0, "max": 1}
    others = sorted(
        (batch for batch in index if batch.dims != first.dims),
        key=lambda batch: order.get(batch.point, 2),
    )
    return [
        (batch, input_tensors(read_batch(root, batch), ctx.params["inputs"]))
        for batch in (first, *others[:1])
    ]


def _grown(tensor: torch.Tensor, axes: Mapping[int, str]) -> torch.Tensor:
    """Repeat *tensor* along dynamic axes of size 1: capturing at 1 freezes the axis."""
    import torch

    for axis in axes:
        if tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], dim=axis)
    return tensor


STAGE = Stage(
    name="export",
    version=2,
    repeats=Repeats.BYTES,
    inputs=("samples",),
    outputs=("onnx", "provenance"),
    tools=_tools,
    user_code=True,
    memory=Memory(base_mib=1536, per_input=6.0),
    seconds=10.0,
    run=run,
)
