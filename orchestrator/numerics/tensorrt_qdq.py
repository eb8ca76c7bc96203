"""Checks that a Q/DQ graph keeps the rules of TensorRT's explicit quantization.

Sources: the operator list of onnx-tensorrt (QuantizeLinear and DequantizeLinear: zero points must
be 0, int32 is not dequantized; 8.6 to 10.15), TensorRT developer guide on explicit quantization,
ONNX (``axis`` exists from opset 13, 8-bit floats from 19), and for the kernels of fp8 NVIDIA's
Model Optimizer (``modelopt.onnx.quantization.fp8``, 0.47) and TensorRT's issue 3987.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError
from orchestrator.numerics.quantized_types import QUANTIZED_TYPES, QuantizedType
from orchestrator.numerics.schemas import opset_versions
from orchestrator.numerics.selection import node_label

if TYPE_CHECKING:
    import onnx

PAIR = ("QuantizeLinear", "DequantizeLinear")
TYPE_OF = {kind.element: kind for kind in QUANTIZED_TYPES.values()}

#: TensorRT's convolutions in fp8: channels in and out come in groups of 16, and a filter has at
#: most 32 positions.
FP8_CHANNELS, FP8_POSITIONS = 16, 32


def channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Return the axis of output channels in the weight of *node*, or None for one scale in all.

    Args:
        node: A Conv, ConvTranspose, Gemm or MatMul; other operators have no weight.
        rank: Rank of the weight at input 1.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attributes.get("transB", 0) else 1
    return 1 if node.op_type == "MatMul" and rank == 2 else None


def without_kernel(node: onnx.NodeProto, weight: TensorProto | None, kind: QuantizedType) -> str:
    """Return why TensorRT has no kernel for *node* in *kind*, or "" when it has.

    A convolution in fp8 that has none fails the build: "could not find any implementation".

    Args:
        node: A node that could be quantized.
        weight: Its constant at input 1, if there is one.
        kind: The 8-bit type.
    """
    if kind.op_types is not None and node.op_type not in kind.op_types:
        return f"TensorRT has {kind.name} for {', '.join(sorted(kind.op_types))}"
    if node.op_type != "Conv" or kind.uniform:
        return ""
    if weight is None:
        return f"a convolution in {kind.name} needs a constant weight"
    channels, positions = weight.dims[:2], math.prod(weight.dims[2:])
    if any(number % FP8_CHANNELS for number in channels):
        return (
            f"a convolution in {kind.name} needs multiples of {FP8_CHANNELS} channels in and out, "
            f"its weight is {list(weight.dims)}"
        )
    if positions > FP8_POSITIONS:
        return f"a filter in {kind.name} has at most {FP8_POSITIONS} positions, this {positions}"
    return ""


def check_tensorrt_qdq(model: onnx.ModelProto) -> None:
    """Check every QuantizeLinear and DequantizeLinear of the main graph of *model*.

    Checked: opset >= 13, or 19 with fp8; int8 or fp8 (E4M3) zero points, constant and all 0;
    constant float scales, finite and positive; scales per channel only on weights and on the axis
    of output channels, one a channel; a QuantizeLinear is read by DequantizeLinear only, with the
    same scale; what is dequantized is of its zero point's type (never an int32 bias); no graph
    output is dequantized.

    Raises:
        StageError: naming the first node that breaks a rule, and the rule.
    """
    nodes = [node for node in model.graph.node if node.op_type in PAIR]
    opset = opset_versions(model).get("", 0)
    facts = _Facts(model.graph)
    for node in nodes:
        kind = facts.kind(node)
        broken = facts.broken_rule(node)
        if not broken and kind is not None and opset < kind.least_opset:
            broken = f"{kind.name} with an axis needs opset {kind.least_opset}, this is {opset}"
        if broken:
            raise StageError(
                f"TensorRT would refuse this {node.op_type}: {broken}",
                where=f"node '{node_label(node)}'",
                hint="quantize with precision=int8 or fp8, which writes what TensorRT accepts",
            )


class _Facts:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants: Mapping[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.outputs = {entry.name for entry in graph.output}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            for slot, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, slot))

    def kind(self, node: onnx.NodeProto) -> QuantizedType | None:
        """Return the type that the zero point of *node* says, or None for another or none."""
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return None if zero is None else TYPE_OF.get(zero.data_type)

    def broken_rule(self, node: onnx.NodeProto) -> str:
        if len(node.input) < 3 or not node.input[2]:
            return "it has no zero point, so its type is uint8 or unknown"
        scale, zero = self._array(node.input[1]), self._array(node.input[2])
        if scale is None or zero is None:
            return "scale and zero point must be constants"
        if self.kind(node) is None:
            return f"its type is {zero.dtype}, only int8 and fp8 (E4M3) are accepted"
        if zero.astype(np.float32).any():
            return "its zero point is not 0 (asymmetric)"
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            return "its scale is not positive and finite"
        if zero.shape != scale.shape:
            return f"scale {scale.shape} and zero point {zero.shape} differ in shape"
        if node.op_type == "QuantizeLinear":
            return self._broken_quantize(node, scale)
        return self._broken_dequantize(node)

    def _broken_quantize(self, node: onnx.NodeProto, scale: np.ndarray[Any, Any]) -> str:
        readers = self.readers.get(node.output[0], [])
        if not readers or any(reader.op_type != "DequantizeLinear" for reader, _ in readers):
            return "its result must be read by DequantizeLinear, and by nothing else"
        if any(reader.input[1:] != node.input[1:] for reader, _ in readers):
            return "its DequantizeLinear has another scale"
        if scale.ndim == 0:
            return ""
        weight = self.constants.get(node.input[0])
        if weight is None:
            return "scales per channel are for constant weights only"
        return self._broken_axis(node, weight, scale)

    def _broken_axis(
        self, node: onnx.NodeProto, weight: TensorProto, scale: np.ndarray[Any, Any]
    ) -> str:
        axis = _axis(node)
        if axis >= len(weight.dims) or scale.shape != (weight.dims[axis],):
            return f"{scale.size} scales do not fit axis {axis} of a weight {list(weight.dims)}"
        for pair, _ in self.readers[node.output[0]]:
            if _axis(pair) != axis:
                return "QuantizeLinear and DequantizeLinear have different axes"
            for reader, slot in self.readers.get(pair.output[0], []):
                right = channel_axis(reader, len(weight.dims)) if slot == 1 else None
                if right != axis:
                    return f"axis {axis} is not the output channel of {reader.op_type} ({right})"
        return ""

    def _broken_dequantize(self, node: onnx.NodeProto) -> str:
        source = self.producer.get(node.input[0])
        tensor = self.constants.get(node.input[0])
        if tensor is not None and tensor.data_type != self.constants[node.input[2]].data_type:
            name = TensorProto.DataType.Name(tensor.data_type).lower()
            return f"it dequantizes {name}; biases must stay in float"
        if tensor is None and (source is None or source.op_type != "QuantizeLinear"):
            return "it must read a QuantizeLinear or a constant of the quantized type"
        return "it quantizes an output of the graph" if node.output[0] in self.outputs else ""

    def _array(self, name: str) -> np.ndarray[Any, Any] | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)
