"""What operator schemas say about types: the one source for what an operator accepts.

Source: ``onnx.defs``, at the opset the model imports. Nothing here is a list written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx

from orchestrator.errors import StageError
from orchestrator.numerics.selection import node_label

if TYPE_CHECKING:
    from onnx.defs import OpSchema

TENSOR_TYPES = {
    number: f"tensor({name.lower()})"
    for name, number in onnx.TensorProto.DataType.items()
    if name != "UNDEFINED"
}


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Return the opset version of each domain of *model*; the standard one is ``""``."""
    return {
        "" if entry.domain == "ai.onnx" else entry.domain: entry.version
        for entry in model.opset_import
    }


def check_opset(model: onnx.ModelProto, least: int, precision: str, before: str) -> None:
    """Check that *model* has at least opset *least* of the standard operators.

    An older model is refused and not converted here: ``onnx.version_converter`` (1.23) has no
    adapter for some operators, drops a model's functions without a word and keeps its IR version,
    and the opset that is asked for decides which TensorRT reads the file.

    Args:
        model: The model.
        least: The opset needed.
        precision: The precision that needs it, for the message.
        before: What is missing below it, for the message: "…: before it, {before}".

    Raises:
        StageError: naming ``exporter.opset``.
    """
    opset = opset_versions(model).get("", 0)
    if opset < least:
        raise StageError(
            f"{precision} needs opset {least} or newer, this model has {opset}: before it, "
            f"{before}",
            where="exporter.opset",
            hint=f"set exporter.opset={least}; a file of your own (model.onnx): convert it, for "
            "example with onnx.version_converter",
        )


def schema_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> OpSchema | None:
    """Return the schema of *node* at the model's opset, or None for a custom operator."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in opsets:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    except onnx.defs.SchemaError:
        return None


def formal(formals: list[OpSchema.FormalParameter], index: int) -> OpSchema.FormalParameter | None:
    """Return the formal parameter at *index*; a variadic last one stands for all that follow."""
    if index < len(formals):
        return formals[index]
    if formals and formals[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return formals[-1]
    return None


def annotate(model: onnx.ModelProto) -> None:
    """Write the inferred type and shape of every value into ``value_info``, bodies included.

    Large weights are left out of the inference, so models beyond protobuf's 2 GiB limit work.

    Raises:
        StageError: when strict shape inference refuses the model.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(
            _without_weights(model), check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as exc:
        raise StageError(
            f"the types or shapes of the graph contradict each other: {_first_line(exc)}",
            where="onnx",
            hint="check the exported file with onnx.checker.check_model(full_check=True)",
        ) from exc
    _copy_value_info(inferred.graph, model.graph)


def check_type_agreement(model: onnx.ModelProto) -> None:
    """Check that every operator's inputs and outputs agree in type, as its schema demands.

    This is what TensorRT requires of strongly typed networks, and stricter than ``onnx.checker``,
    which accepts ``Add(float16, float)``. *model* must be annotated (:func:`annotate`).

    Raises:
        StageError: naming the first node whose types disagree or are not allowed.
    """
    _check_graph(model.graph, opset_versions(model), {})


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the element type of every tensor of an annotated *graph* (bodies not included)."""
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    }
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


def _check_graph(
    graph: onnx.GraphProto, opsets: Mapping[str, int], outer: Mapping[str, int]
) -> None:
    types = {**outer, **element_types(graph)}
    for node in graph.node:
        schema = schema_of(node, opsets)
        if schema is not None:
            _check_node(node, schema, types)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_graph(attribute.g, opsets, types)


def _check_node(node: onnx.NodeProto, schema: OpSchema, types: Mapping[str, int]) -> None:
    bound: dict[str, str] = {}
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, name in enumerate(names):
            parameter = formal(list(formals), index)
            if not name or name not in types or parameter is None:
                continue
            found = TENSOR_TYPES.get(types[name], "?")
            if found not in parameter.types:
                raise StageError(
                    f"{node.op_type} does not accept {found} for '{name}'",
                    where=f"node '{node_label(node)}'",
                )
            if parameter.option == onnx.defs.OpSchema.FormalParameterOption.Variadic and not (
                parameter.is_homogeneous
            ):
                continue
            first = bound.setdefault(parameter.type_str, found)
            if first != found:
                raise StageError(
                    f"{node.op_type} has operands of {first} and {found} ('{name}')",
                    where=f"node '{node_label(node)}'",
                )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of *model* whose large weights are marked as external and absent."""
    heavy = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 4096]
    data = [tensor.raw_data for tensor in heavy]
    copy = onnx.ModelProto()
    try:
        for tensor in heavy:
            tensor.ClearField("raw_data")
        copy.CopyFrom(model)
    finally:
        for tensor, raw in zip(heavy, data, strict=True):
            tensor.raw_data = raw
    names = {tensor.name for tensor in heavy}
    for tensor in copy.graph.initializer:
        if tensor.name in names:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="absent")
    return copy


def _copy_value_info(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    del target.value_info[:]
    target.value_info.extend(source.value_info)
    for inferred, node in zip(source.node, target.node, strict=True):
        for left, right in zip(inferred.attribute, node.attribute, strict=True):
            if right.HasField("g"):
                _copy_value_info(left.g, right.g)


def _first_line(exc: Exception) -> str:
    return next((line for line in str(exc).splitlines() if line.strip()), "no reason given")
