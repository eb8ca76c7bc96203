"""A bf16 graph as an fp32 graph with the same rounding, for runtimes without bf16 kernels.

ONNX Runtime has bf16 on a CPU in Cast and little else (1.31: no Add, MatMul or Conv). Here every
bf16 value becomes a float32 that is rounded to bf16 where it is made, by a pair of Casts; operators
read float32 numbers that bf16 holds. So each operator computes in fp32 and rounds once, as matrix
units that accumulate in fp32 do: a check of the lowered graph, not a way to serve it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.numerics.schemas import annotate, element_types

WIDE, NARROW = TensorProto.FLOAT, TensorProto.BFLOAT16


def widen_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an fp32 copy of the bf16 *model*, with a rounding to bf16 after every operator.

    Inputs and outputs in bfloat16 become float32; values of other types are left alone.

    Args:
        model: A model as :func:`orchestrator.numerics.half.lower_to_half` makes it, weights loaded.

    Raises:
        StageError: the types of the model contradict each other.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    annotate(wide)
    _widen(wide.graph, {})
    return wide


def _widen(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Widen *graph*; *renamed* are inputs of the whole model, which are read after rounding."""
    narrow = {name for name, element in element_types(graph).items() if element == NARROW}
    nodes: list[onnx.NodeProto] = []
    if not renamed:
        renamed = {
            entry.name: f"{entry.name}_rounded" for entry in graph.input if entry.name in narrow
        }
        for name, rounded in renamed.items():
            nodes += _rounding(name, rounded)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        rounding = []
        for index, name in enumerate(node.output):
            if name in narrow:
                node.output[index] = f"{name}_unrounded"
                rounding += _rounding(node.output[index], name)
        _widen_attributes(node, renamed)
        nodes += [node, *rounding]
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name in narrow:
            value.type.tensor_type.elem_type = WIDE


def _rounding(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}_bf16"], to=NARROW),
        helper.make_node("Cast", [f"{target}_bf16"], [target], to=WIDE),
    ]


def _widen_attributes(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    for attribute in node.attribute:
        if attribute.name == "output_dtype" and attribute.i == NARROW:
            attribute.i = WIDE
        elif attribute.HasField("t"):
            _widen_tensor(attribute.t)
        elif attribute.HasField("g"):
            _widen(attribute.g, renamed)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == NARROW:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
