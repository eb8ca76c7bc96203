"""An fp32 graph becomes an int8 one with QuantizeLinear/DequantizeLinear pairs, as TensorRT wants.

What is inserted (the promises are checked by :mod:`orchestrator.numerics.tensorrt_qdq`):

* int8 and symmetric throughout: every zero point is 0, every scale is threshold / 127;
* pairs on the *inputs* of quantized operators only, one pair for all quantized readers of a tensor;
  nodes that stay in fp32 read the unquantized tensor;
* weights stay fp32 behind a pair, with one scale per output channel (Conv axis 0, ConvTranspose
  and MatMul axis 1, Gemm axis 0 or 1 by ``transB``), or one in all where there is no such axis
  (grouped ConvTranspose, MatMul weights of a rank other than 2, a constant left operand);
* biases stay fp32: TensorRT refuses DequantizeLinear of int32.

It has the effect of ``onnxruntime.quantization.quantize_static`` with the options that make that
acceptable to TensorRT, and the tests compare the two. That tool puts the axis of a constant left
operand or of a 3-D MatMul weight on the summed dimension, quantizes bias additions, lets nodes that
stay in fp32 read quantized tensors, and calibrates in unbounded memory.
Sources: TensorRT developer guide, "Working with Quantized Types" (explicit quantization); the
onnx-tensorrt operator list (zero points, int32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError, nearest
from orchestrator.numerics.calibration import Calibration, activation_thresholds
from orchestrator.numerics.masks import masking_values
from orchestrator.numerics.schemas import annotate, element_types, opset_versions
from orchestrator.numerics.selection import all_nodes, check_selection, node_label
from orchestrator.numerics.tensorrt_qdq import channel_axis, check_tensorrt_qdq

if TYPE_CHECKING:
    from orchestrator.numerics.calibration import Batches

INT8_LARGEST = 127
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with a weight at input 1; a further input is a bias and stays fp32."""
MIN_OPSET = 13


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """What was quantized.

    Attributes:
        quantized: Quantized nodes by operator type.
        left: Nodes on float32 values that stay fp32, by operator type.
        thresholds: Magnitude that becomes 127, for each quantized activation.
        weights: Weights behind a pair.
    """

    quantized: dict[str, int]
    left: dict[str, int]
    thresholds: dict[str, float]
    weights: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is quantized.

    Attributes:
        op_types: Operator types that are quantized.
        keep_op_types: Operator types left in fp32.
        keep_nodes: Names of nodes left in fp32 (the first output's name for one without a name).
        per_channel: One weight scale per output channel; otherwise one per weight.
    """

    op_types: Sequence[str]
    keep_op_types: Sequence[str] = ()
    keep_nodes: Sequence[str] = ()
    per_channel: bool = True

    def wants(self, node: onnx.NodeProto) -> bool:
        """Return whether *node* should be quantized."""
        return (
            node.op_type in self.op_types
            and node.op_type not in self.keep_op_types
            and node_label(node) not in self.keep_nodes
        )


def quantize(
    model: onnx.ModelProto, batches: Batches, what: Selection, how: Calibration
) -> tuple[onnx.ModelProto, QuantizeReport]:
    """Return an int8 Q/DQ copy of *model*, and what was done.

    Operators with weights (:data:`WEIGHTED`) are quantized at their inputs 0 and 1. Any other
    type of ``what.op_types`` is quantized at all its float32 inputs when none of them is constant:
    a residual Add, not the addition of a bias, nor of a mask to attention scores (minus infinity
    has no int8, and calibration data need not hold it). Bodies of If, Loop and Scan stay fp32.

    Args:
        model: An fp32 model with its weights loaded.
        batches: Gives a fresh iterator over calibration batches, ``{input: array}``.
        what: What is quantized.
        how: How ranges are found.

    Raises:
        StageError: opset below 13; an operator type or kept name that does not exist; nothing to
            quantize; calibration that fails; weights that are not finite.
    """
    if model.functions:
        result = onnx.inliner.inline_local_functions(model)
    else:
        result = onnx.ModelProto()
        result.CopyFrom(model)
    _check_request(result, what)
    annotate(result)
    graph = result.graph
    constants = _lift_constants(graph)
    types = element_types(graph)
    masked = masking_values(graph)
    chosen: dict[int, tuple[int, ...]] = {}
    for index, node in enumerate(graph.node):
        slots = _slots(node, constants, types) if what.wants(node) else ()
        if slots and (node.op_type in WEIGHTED or node.output[0] not in masked):
            chosen[index] = slots
    if not chosen:
        raise _nothing(graph, what)
    names = (graph.node[index].input[slot] for index, slots in chosen.items() for slot in slots)
    activations = list(dict.fromkeys(name for name in names if name not in constants))
    thresholds = activation_thresholds(result, activations, batches, how)
    counted = Counter(graph.node[index].op_type for index in chosen)
    left = Counter(_left(graph, chosen, types))
    writer = _Writer(graph, constants, thresholds, per_channel=what.per_channel)
    writer.write(chosen)
    annotate(result)
    check_tensorrt_qdq(result)
    return result, QuantizeReport(
        quantized=dict(sorted(counted.items())),
        left=dict(sorted(left.items())),
        thresholds=thresholds,
        weights=writer.weights,
    )


def weight_scale(weight: np.ndarray[Any, Any], axis: int | None) -> np.ndarray[Any, Any]:
    """Return the symmetric int8 scale of *weight*: its largest magnitude / 127.

    Args:
        weight: float32, any shape.
        axis: The axis with a scale of its own per index, or None for a single scale.

    Returns:
        float32, ``[weight.shape[axis]]`` or ``[]``. A channel of zeros gets the scale of 1.0 / 127.
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest: np.ndarray[Any, Any] = np.abs(weight).max(axis=others, initial=0.0)
    return _scale(largest)


def _scale(threshold: np.ndarray[Any, Any] | float) -> np.ndarray[Any, Any]:
    limit = np.asarray(threshold, dtype=np.float32)
    limit = np.where(limit > 0, limit, np.float32(1))
    smallest = np.finfo(np.float32).tiny  # A subnormal scale may be flushed, and 0 / 0 is NaN.
    scale: np.ndarray[Any, Any] = np.maximum(limit / np.float32(INT8_LARGEST), smallest)
    return scale.astype(np.float32)


class _Writer:
    """Inserts the pairs."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: Mapping[str, TensorProto],
        thresholds: Mapping[str, float],
        *,
        per_channel: bool,
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.thresholds = thresholds
        self.per_channel = per_channel
        self.weights = 0
        self._pairs: dict[tuple[str, int | None], str] = {}
        self._taken = set(_names(graph))
        self._nodes: list[onnx.NodeProto] = []

    def write(self, chosen: Mapping[int, Sequence[int]]) -> None:
        for index, node in enumerate(list(self.graph.node)):
            for slot in chosen.get(index, ()):
                node.input[slot] = self._pair(node, slot)
            self._nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)

    def _pair(self, node: onnx.NodeProto, slot: int) -> str:
        name = node.input[slot]
        tensor = self.constants.get(name)
        axis = None
        if tensor is not None and self.per_channel and slot == 1:
            axis = channel_axis(node, len(tensor.dims))
        if (name, axis) not in self._pairs:
            scale = _scale(self.thresholds[name]) if tensor is None else _of(tensor, axis)
            self._pairs[name, axis] = self._insert(name, scale, axis)
            self.weights += tensor is not None
        return self._pairs[name, axis]

    def _insert(self, name: str, scale: np.ndarray[Any, Any], axis: int | None) -> str:
        scale_name, zero_name = self._fresh(f"{name}_scale"), self._fresh(f"{name}_zero_point")
        quantized, result = self._fresh(f"{name}_quantized"), self._fresh(f"{name}_dequantized")
        zero = np.zeros(scale.shape, dtype=np.int8)
        self.graph.initializer.append(numpy_helper.from_array(scale, scale_name))
        self.graph.initializer.append(numpy_helper.from_array(zero, zero_name))
        for op_type, source, target in (
            ("QuantizeLinear", name, quantized),
            ("DequantizeLinear", quantized, result),
        ):
            node = helper.make_node(
                op_type,
                [source, scale_name, zero_name],
                [target],
                name=self._fresh(f"{name}_{op_type}"),
            )
            if axis is not None:
                node.attribute.append(helper.make_attribute("axis", axis))
            self._nodes.append(node)
        return result

    def _fresh(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name


def _of(tensor: TensorProto, axis: int | None) -> np.ndarray[Any, Any]:
    weight = numpy_helper.to_array(tensor)
    if not np.isfinite(weight).all():
        raise StageError(
            f"weight '{tensor.name}' holds NaN or infinity, which int8 cannot",
            where="precision.name",
            hint="check the checkpoint",
        )
    return weight_scale(weight, axis)


def _slots(
    node: onnx.NodeProto, constants: Mapping[str, TensorProto], types: Mapping[str, int]
) -> tuple[int, ...]:
    """Return the inputs of *node* that get a pair; none when it cannot be quantized."""
    floats = [
        index
        for index, name in enumerate(node.input)
        if name and types.get(name) == TensorProto.FLOAT
    ]
    if node.op_type in WEIGHTED:
        return (0, 1) if floats[:2] == [0, 1] else ()
    if not floats or any(node.input[index] in constants for index in floats):
        return ()
    return tuple(floats)


def _lift_constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Turn float32 Constant nodes into initializers, and return all float32 constants by name."""
    rest = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if value is not None and value.name == "value" and value.t.data_type == TensorProto.FLOAT:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            rest.append(node)
    del graph.node[:]
    graph.node.extend(rest)
    fed = {entry.name for entry in graph.input}
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in fed
    }


def _left(
    graph: onnx.GraphProto, chosen: Mapping[int, object], types: Mapping[str, int]
) -> Iterator[str]:
    """Yield the operator type of every node on float32 values that is not quantized."""
    for index, node in enumerate(graph.node):
        floats = any(types.get(name) == TensorProto.FLOAT for name in (*node.input, *node.output))
        if floats and index not in chosen:
            yield node.op_type


def _nothing(graph: onnx.GraphProto, what: Selection) -> StageError:
    present = ", ".join(sorted({node.op_type for node in graph.node}))
    return StageError(
        "nothing in this model can be quantized: no node of the types "
        f"{', '.join(what.op_types) or '(none)'} is left that has float32 inputs to quantize; "
        f"the graph has {present}",
        where="precision.op_types",
        hint="add operator types to precision.op_types, or use precision=fp16",
    )


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (entry.name for entry in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in all_nodes(graph):
        yield node.name
        yield from node.output


def _check_request(model: onnx.ModelProto, what: Selection) -> None:
    opset = opset_versions(model).get("", 0)
    if opset < MIN_OPSET:
        raise StageError(
            f"int8 needs opset {MIN_OPSET} or newer, this model has {opset}: scales per channel do "
            "not exist before it",
            where="precision.name",
            hint=f"set exporter.opset to {MIN_OPSET} or more",
        )
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    for name in what.op_types:
        if name not in known:
            raise StageError(
                f"'{name}' is no ONNX operator",
                where="precision.op_types",
                hint=nearest(name, known) or "names are as in the graph, such as Conv",
            )
    check_selection(model.graph, what.keep_nodes, what.keep_op_types)
