"""An fp32 graph gets QuantizeLinear/DequantizeLinear pairs in int8 or fp8, as TensorRT wants them.

What is inserted (the promises are checked by :mod:`orchestrator.numerics.tensorrt_qdq`):

* one type and symmetric throughout: every zero point is 0 and says the type, every scale is
  threshold / 127 (int8) or threshold / 448 (fp8, E4M3);
* pairs on the *inputs* of quantized operators only, one pair for all quantized readers of a tensor;
  nodes that stay in fp32 read the unquantized tensor;
* weights stay fp32 behind a pair, with one scale per output channel (Conv axis 0, ConvTranspose
  and MatMul axis 1, Gemm axis 0 or 1 by ``transB``), or one in all where there is no such axis
  (grouped ConvTranspose, MatMul weights of a rank other than 2, a constant left operand);
* biases stay fp32: TensorRT refuses DequantizeLinear of int32;
* fp8: only operators that TensorRT has such kernels for
  (:func:`orchestrator.numerics.tensorrt_qdq.without_kernel`); the others stay fp32.

For int8 it has the effect of ``onnxruntime.quantization.quantize_static`` with options that make
that acceptable to TensorRT, and the tests compare the two. That tool puts the axis of a constant
left operand or of a 3-D MatMul weight on the summed dimension, quantizes bias additions, lets nodes
that stay in fp32 read quantized tensors, and calibrates in unbounded memory; it cannot write fp8
with constant scales (1.31).
Sources: TensorRT developer guide, "Working with Quantized Types" (explicit quantization); the
onnx-tensorrt operator list (zero points, int32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx.inliner
from onnx import TensorProto

from orchestrator.errors import StageError, nearest
from orchestrator.numerics.calibration import Calibration, activation_thresholds
from orchestrator.numerics.masks import masking_values
from orchestrator.numerics.pairs import PairWriter
from orchestrator.numerics.quantized_types import INT8, QuantizedType
from orchestrator.numerics.schemas import annotate, check_opset, element_types
from orchestrator.numerics.selection import check_selection, node_label
from orchestrator.numerics.tensorrt_qdq import check_tensorrt_qdq, without_kernel

if TYPE_CHECKING:
    from orchestrator.numerics.calibration import Batches

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with a weight at input 1; a further input is a bias and stays fp32."""


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """What was quantized.

    Attributes:
        quantized: Quantized nodes by operator type.
        left: Nodes on float32 values that stay fp32, by operator type.
        thresholds: Magnitude that becomes the type's largest number, for each quantized activation.
        weights: Weights behind a pair.
        without_kernel: Nodes that were asked for and stay fp32 because TensorRT has no kernel for
            them in this type: label → reason.
    """

    quantized: dict[str, int]
    left: dict[str, int]
    thresholds: dict[str, float]
    weights: int
    without_kernel: dict[str, str]


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
    model: onnx.ModelProto,
    batches: Batches,
    what: Selection,
    how: Calibration,
    kind: QuantizedType = INT8,
) -> tuple[onnx.ModelProto, QuantizeReport]:
    """Return a Q/DQ copy of *model*, and what was done.

    Operators with weights (:data:`WEIGHTED`) are quantized at their inputs 0 and 1. Any other
    type of ``what.op_types`` is quantized at all its float32 inputs when none of them is constant:
    a residual Add, not the addition of a bias, nor of a mask to attention scores (minus infinity
    has no code, and calibration data need not hold it). Bodies of If, Loop and Scan stay fp32.

    Args:
        model: An fp32 model with its weights loaded.
        batches: Gives a fresh iterator over calibration batches, ``{input: array}``.
        what: What is quantized.
        how: How ranges are found.
        kind: The 8-bit type.

    Raises:
        StageError: an opset without the type (int8 needs 13, fp8 19); an operator type or kept name
            that does not exist; ``entropy`` for fp8; nothing to quantize; calibration that fails;
            weights that are not finite.
    """
    if model.functions:
        result = onnx.inliner.inline_local_functions(model)
    else:
        result = onnx.ModelProto()
        result.CopyFrom(model)
    _check_request(result, what, how, kind)
    annotate(result)
    graph = result.graph
    constants = _lift_constants(graph)
    types = element_types(graph)
    chosen, lacking = _choose(graph, constants, types, what, kind)
    if not chosen:
        raise _nothing(graph, what, lacking)
    names = (graph.node[index].input[slot] for index, slots in chosen.items() for slot in slots)
    activations = list(dict.fromkeys(name for name in names if name not in constants))
    thresholds = activation_thresholds(result, activations, batches, how)
    counted = Counter(graph.node[index].op_type for index in chosen)
    left = Counter(_left(graph, chosen, types))
    writer = PairWriter(graph, constants, thresholds, kind, per_channel=what.per_channel)
    writer.write(chosen)
    result.ir_version = max(result.ir_version, kind.least_ir)
    annotate(result)
    check_tensorrt_qdq(result)
    return result, QuantizeReport(
        quantized=dict(sorted(counted.items())),
        left=dict(sorted(left.items())),
        thresholds=thresholds,
        weights=writer.weights,
        without_kernel=lacking,
    )


def _choose(
    graph: onnx.GraphProto,
    constants: Mapping[str, TensorProto],
    types: Mapping[str, int],
    what: Selection,
    kind: QuantizedType,
) -> tuple[dict[int, tuple[int, ...]], dict[str, str]]:
    """Return {index of a node: inputs that get a pair}, and {label: why another gets none}."""
    masked = masking_values(graph)
    chosen: dict[int, tuple[int, ...]] = {}
    lacking: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        slots = _slots(node, constants, types) if what.wants(node) else ()
        weighted = node.op_type in WEIGHTED
        if not slots or (not weighted and node.output[0] in masked):
            continue
        reason = without_kernel(node, constants.get(node.input[1]) if weighted else None, kind)
        if reason:
            lacking[node_label(node)] = reason
        else:
            chosen[index] = slots
    return chosen, lacking


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


def _nothing(graph: onnx.GraphProto, what: Selection, lacking: Mapping[str, str]) -> StageError:
    if lacking:
        label, reason = next(iter(lacking.items()))
        return StageError(
            f"nothing in this model can be quantized: of the {len(lacking)} nodes asked for, none "
            f"has a kernel; '{label}': {reason}",
            where="precision.name",
            hint="use precision=int8 or precision=fp16",
        )
    present = ", ".join(sorted({node.op_type for node in graph.node}))
    return StageError(
        "nothing in this model can be quantized: no node of the types "
        f"{', '.join(what.op_types) or '(none)'} is left that has float32 inputs to quantize; "
        f"the graph has {present}",
        where="precision.op_types",
        hint="add operator types to precision.op_types, or use precision=fp16",
    )


def _check_request(
    model: onnx.ModelProto, what: Selection, how: Calibration, kind: QuantizedType
) -> None:
    check_opset(model, kind.least_opset, kind.name, kind.before)
    if how.method == "entropy" and not kind.uniform:
        raise StageError(
            f"calibration by entropy is made for the evenly spaced numbers of int8; those of "
            f"{kind.name} are dense around zero, and cutting a range off saves little",
            where="calibration.method",
            hint="use calibration=minmax, as NVIDIA's tools do, or calibration=percentile",
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
