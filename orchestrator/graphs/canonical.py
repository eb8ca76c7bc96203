"""The canonical form of an ONNX model: equal bytes for models that differ in nothing that matters.

Dropped: producer, model version, doc strings, metadata, names of tensors inside attributes, unused
initializers and opset imports. Ordered: nodes (stable topological order: an order that is valid
stays), initializers, value infos, attributes, opset imports. Fixed: the graph's name and the IR
version. Names of nodes and values stay: users and provenance refer to them. Bodies of If, Loop and
Scan and local functions are stripped, and left in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.graphs import files as onnx_files

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# IR 8 reads everywhere from TensorRT 8.6's parser on, and holds local functions and all types of
# opset 18; types that came later set a higher one (onnx/onnx.in.proto, enum Version).
BASE_IR_VERSION = 8
_IR_OF_TYPES = {
    9: ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"),
    10: ("int4", "uint4"),
    11: ("float4e2m1",),
    12: ("float8e8m0",),
    13: ("int2", "uint2"),
}
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def canonicalize(model: ModelProto) -> None:
    """Bring *model* into canonical form, in place.

    Its meaning stays, and a second call changes nothing. External tensors need not be loaded.
    """
    for name in ("producer_name", "producer_version", "model_version", "domain"):
        model.ClearField(name)
    model.graph.name = "model"
    strip_origins(model)
    _drop_unused(model.graph)
    _reorder(model.graph.node, _topological(list(model.graph.node)))
    _reorder(model.graph.initializer, _by_name(model.graph.initializer))
    _reorder(model.graph.sparse_initializer, _by_values_name(model.graph.sparse_initializer))
    _reorder(model.graph.value_info, _by_name(model.graph.value_info))
    _canonical_opsets(model)
    for tensor in onnx_files.tensors(model):
        if tensor.data_location != tensor.EXTERNAL and any(
            len(_f(tensor, n)) for n in _TYPED_FIELDS
        ):
            onnx_files.raw_bytes(tensor)
    model.ir_version = _ir_version(model)


def strip_origins(model: ModelProto) -> None:
    """Remove doc strings and metadata: exporters write there from which files the nodes came."""
    model.ClearField("doc_string")
    del model.metadata_props[:]
    _strip_graph(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        for value in function.value_info:
            value.ClearField("doc_string")
            del value.metadata_props[:]
        for node in function.node:
            _strip_node(node)


def _f(tensor: TensorProto, name: str) -> Sequence[Any]:
    return getattr(tensor, name)  # type: ignore[no-any-return]


def _strip_graph(graph: GraphProto) -> None:
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    for tensor in graph.initializer:
        _strip_tensor(tensor)
    for node in graph.node:
        _strip_node(node)


def _unset_empty(message: Any, *fields: str) -> None:
    """Clear *fields* that are set to their default: set and unset have different bytes."""
    for field in fields:
        if not getattr(message, field):
            message.ClearField(field)


def _strip_tensor(tensor: TensorProto) -> None:
    _unset_empty(tensor, "data_location", "name")
    tensor.ClearField("doc_string")
    del tensor.metadata_props[:]


def _strip_node(node: NodeProto) -> None:
    node.ClearField("doc_string")
    del node.metadata_props[:]
    if node.domain == "ai.onnx":
        node.domain = ""
    _unset_empty(node, "domain", "name", "overload")
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
            _strip_tensor(tensor)
            tensor.ClearField("name")
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _strip_graph(graph)
    _reorder(node.attribute, _by_name(node.attribute))


def _reorder(field: Any, order: list[Any]) -> None:
    """Put the messages of the repeated *field* in *order* (some or all of them)."""
    copies = []
    for message in order:
        copied = type(message)()
        copied.CopyFrom(message)
        copies.append(copied)
    del field[:]
    field.extend(copies)


def _by_name(field: Iterable[Any]) -> list[Any]:
    return sorted(field, key=lambda message: str(message.name))


def _by_values_name(field: Iterable[Any]) -> list[Any]:
    return sorted(field, key=lambda sparse: str(sparse.values.name))


def _reads(node: NodeProto) -> set[str]:
    """Return the values *node* reads, those that its sub-graphs capture from outside included."""
    names = set(node.input)
    for graph in onnx_files.subgraphs(node):
        names |= _captured(graph)
    return names - {""}


def _captured(graph: GraphProto) -> set[str]:
    inside = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    inside |= {sparse.values.name for sparse in graph.sparse_initializer}
    reads = {value.name for value in graph.output}
    for node in graph.node:
        reads |= _reads(node)
        inside |= set(node.output)
    return reads - inside


def _topological(nodes: list[NodeProto]) -> list[NodeProto]:
    """Return *nodes* sorted so that values are made before they are read; ties keep their order."""
    import heapq

    maker = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    needs = [
        {maker[name] for name in _reads(node) if name in maker} - {number}
        for number, node in enumerate(nodes)
    ]
    readers: dict[int, list[int]] = {}
    for number, makers in enumerate(needs):
        for other in makers:
            readers.setdefault(other, []).append(number)
    waiting = [len(makers) for makers in needs]
    ready = [number for number, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[NodeProto] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(nodes[number])
        for reader in readers.get(number, []):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order if len(order) == len(nodes) else nodes  # A cycle is the checker's to report.


def _drop_unused(graph: GraphProto) -> None:
    """Drop initializers that nothing reads, and value infos of values that do not exist."""
    reads = {value.name for value in graph.output} | {value.name for value in graph.input}
    made: set[str] = set()
    for node in graph.node:
        reads |= _reads(node)
        made |= set(node.output)
    used = [tensor for tensor in graph.initializer if tensor.name in reads]
    if len(used) != len(graph.initializer):
        _reorder(graph.initializer, used)
    known = [value for value in graph.value_info if value.name in made]
    if len(known) != len(graph.value_info):
        _reorder(graph.value_info, known)


def _domains(nodes: Iterable[NodeProto]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        found.add(node.domain)
        for graph in onnx_files.subgraphs(node):
            found |= _domains(graph.node)
    return found


def _canonical_opsets(model: ModelProto) -> None:
    for opset in model.opset_import:
        opset.domain = "" if opset.domain == "ai.onnx" else opset.domain
    used = {""} | _domains(model.graph.node)
    for function in model.functions:
        used |= _domains(function.node) | {function.domain}
        used |= {opset.domain for opset in function.opset_import}
    kept = sorted((o for o in model.opset_import if o.domain in used), key=lambda o: o.domain)
    _reorder(model.opset_import, kept)


def _ir_version(model: ModelProto) -> int:
    from onnx import helper

    needed = helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    types = {onnx_files.dtype_name(tensor.data_type) for tensor in onnx_files.tensors(model)}
    types |= {
        onnx_files.dtype_name(value.type.tensor_type.elem_type)
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)
    }
    newest = max((ir for ir, names in _IR_OF_TYPES.items() if types & set(names)), default=0)
    overloads = 10 if any(function.overload for function in model.functions) else 0
    return max(BASE_IR_VERSION, needed, newest, overloads)
