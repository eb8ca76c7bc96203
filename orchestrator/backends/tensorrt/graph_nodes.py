"""The ONNX model behind an engine, as the audit wants it: operator and FLOPs of each node by name.

Only workers import this. Shapes come from ONNX's shape inference with the inputs' sizes put in,
values of shape computations included (``data_prop``); a node whose shapes stay unknown, or that
stands in the body of an If, Loop or Scan, counts None, and one whose operands are all constant 0:
builders fold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from orchestrator.backends.onnxruntime.flops import flops
from orchestrator.backends.tensorrt.work import HEAVY, OnnxNode
from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.selection import all_nodes

Shape = Sequence[int]


def onnx_nodes(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, OnnxNode]:
    """Return every node of *model* at the input *shapes*, by name.

    A node without a name is called ``node_of_OUTPUT``; of several with one name, further ones get a
    number, which no engine layer names, so their work counts as not found.

    Args:
        model: The model that was built; its weights' values need not be loaded.
        shapes: Sizes of every input, by name.

    Raises:
        StageError: an input has no sizes, or ONNX cannot infer shapes.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in sized.graph.input:
        if value.name in weights:
            continue
        if value.name not in shapes:
            raise StageError(f"the audit was given no sizes for input '{value.name}'")
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes[value.name], strict=True):
            dim.dim_value = size
    del sized.graph.value_info[:]
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    except onnx.shape_inference.InferenceError as exc:
        raise StageError(f"ONNX cannot infer the model's shapes: {exc}") from exc
    known: dict[str, list[int]] = dict(weights)
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known[value.name] = [d.dim_value for d in dims]
    constants = _constants(graph, set(weights))
    found: dict[str, OnnxNode] = {}
    for node in graph.node:
        light = node.op_type not in HEAVY or node.output[0] in constants
        count = 0 if light else _flops(node, known)
        weighted = any(name in constants for name in node.input[:2])
        found[_label(node, found)] = OnnxNode(op=node.op_type, flops=count, weighted=weighted)
        for inner in (inner for body in onnx_files.subgraphs(node) for inner in all_nodes(body)):
            count = None if inner.op_type in HEAVY else 0
            found[_label(inner, found)] = OnnxNode(op=inner.op_type, flops=count)
    return found


def _label(node: onnx.NodeProto, taken: Mapping[str, OnnxNode]) -> str:
    name = node.name or f"node_of_{next(filter(None, node.output), '')}"
    number, label = 2, name
    while label in taken:
        number, label = number + 1, f"{name} ({number})"
    return label


def _constants(graph: onnx.GraphProto, weights: set[str]) -> set[str]:
    """Return the tensors that are stored, or computed from stored ones through casts, Q/DQ."""
    found = set(weights)
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" or (inputs and all(name in found for name in inputs)):
            found.update(node.output)
    return found


def _flops(node: onnx.NodeProto, known: Mapping[str, list[int]]) -> int | None:
    inputs = [known[name] for name in node.input if name in known]
    if len(inputs) < 2 or node.output[0] not in known or node.input[0] not in known:
        return None
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    weights = {at: known[name] for at, name in enumerate(node.input) if name in known}
    # 0 would say that the operator is light, which HEAVY denies: it has no formula there (Einsum).
    return flops(node.op_type, inputs, known[node.output[0]], weights, attributes) or None
