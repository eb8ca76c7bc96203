"""``INetworkDefinition``, its layers, and the ONNX parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from orchestrator.graphs.files import load_file
from tests.backends.tensorrt.standin.callbacks import ILogger, say
from tests.backends.tensorrt.standin.enums import DataType, LayerType, Severity
from tests.backends.tensorrt.standin.names import has, pruned
from tests.backends.tensorrt.standin.settings import fault

Array = np.ndarray[Any, Any]
HEAVY: Final = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_TYPES: Final[Mapping[int, str]] = {
    TensorProto.FLOAT: "FLOAT", TensorProto.DOUBLE: "FLOAT", TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8", TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
}  # fmt: skip


class Tensor:
    """An ``ITensor``; 64-bit integers are INT32 before 10.0, as the parser makes them."""

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        name = _TYPES.get(tensor.elem_type, "FLOAT")
        self.name = value.name
        self.dtype = getattr(DataType, name if has(f"DataType.{name}") else "INT32")
        self.shape = sizes(tensor)
        self.is_shape_tensor = False


def sizes(tensor: onnx.TypeProto.Tensor) -> list[int]:
    """Return a tensor's sizes, -1 where they are free."""
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]


class ILayer:
    """A node, or a weight that is no convolution's."""

    def __init__(self, name: str, kind: Any, outputs: list[Tensor], weights: Any) -> None:
        self.name, self.type, self.metadata = name, kind, f"[ONNX Layer: {name}]"
        self.outputs, self.num_outputs = outputs, len(outputs)
        self.by_role: dict[str, Array] = weights
        self.precision: Any = None  # set: to be held, under OBEY_PRECISION_CONSTRAINTS

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        """Take an output's type; kernels follow ``precision``."""


class IConvolutionLayer(ILayer):
    """The worker turns a layer into one of these to reach its weights."""

    kernel = property(lambda self: self.by_role["KERNEL"])
    bias = property(lambda self: self.by_role["BIAS"])


class IConstantLayer(ILayer):
    weights = property(lambda self: self.by_role["CONSTANT"])


def refittable(graph: onnx.GraphProto) -> Iterator[tuple[str, str, str]]:
    """Yield (layer, role, initializer) of every float weight."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16)
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}
    for node in graph.node:
        if node.op_type == "Conv":
            for role, name in zip(("KERNEL", "BIAS"), node.input[1:], strict=False):
                if name in floats:
                    floats.discard(name)
                    yield node.name, role, name
    for name in sorted(floats):
        yield name, "CONSTANT", name


@pruned
class INetworkDefinition:
    """The parsed ONNX model, its shapes and types inferred."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model = onnx.ModelProto()
        self.layers: list[ILayer] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def take(self, model: onnx.ModelProto) -> None:
        """Become *model*; nodes without a name get the one that the parser gives them."""
        for node in model.graph.node:
            node.name = node.name or f"node_of_{node.output[0]}"
        self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = self.model.graph
        arrays = {tensor.name: tensor for tensor in graph.initializer}
        known = {value.name: Tensor(value) for value in (*graph.value_info, *graph.output)}
        weights: dict[str, dict[str, Array]] = {}
        for layer, role, name in refittable(graph):
            weights.setdefault(layer, {})[role] = numpy_helper.to_array(arrays[name])
        for node in graph.node:
            kind = LayerType.CONVOLUTION if node.op_type == "Conv" else LayerType.IDENTITY
            outputs = [known[name] for name in node.output if name in known]
            self.layers.append(ILayer(node.name, kind, outputs, weights.pop(node.name, {})))
        for name, found in weights.items():
            self.layers.append(ILayer(name, LayerType.CONSTANT, [], found))
        self.inputs = [Tensor(value) for value in graph.input if value.name not in arrays]
        self.outputs = [known[value.name] for value in graph.output]

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def mark_weights_refittable(self, name: str) -> bool:
        return any(tensor.name == name for tensor in self.model.graph.initializer)


class OnnxParser:
    """Reads an ONNX file into a network; operators that ONNX does not know are refused."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self.errors: list[Any] = []

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, index: int) -> Any:
        return self.errors[index]

    def set_flag(self, flag: Any) -> None:
        """Take a flag."""

    def clear_flag(self, flag: Any) -> None:
        """Drop a flag."""

    def get_used_vc_plugin_libraries(self) -> list[str]:
        return []

    def parse_from_file(self, path: str) -> bool:
        model = load_file(Path(path))
        for at in range(int(fault("chatty") or 0)):
            self._logger.log(Severity.WARNING, f"warning {at}")
        for at, node in enumerate(model.graph.node):
            lacks = fault("unsupported") == node.op_type
            if lacks or not onnx.defs.has(node.op_type, node.domain):
                self.errors.append(parser_error(at, node))
                say(self._logger, f"ModelImporter: No importer registered for op: {node.op_type}")
        if not self.errors:
            self._network.take(model)
        return not self.errors


def parser_error(at: int, node: onnx.NodeProto) -> SimpleNamespace:
    """Return the ``ParserError`` of an unknown operator, in the words of 8.6.0."""
    text = "Plugin not found, are the plugin name, version, and namespace correct?"
    says = {"code": "ErrorCode.UNSUPPORTED_NODE", "desc": text, "node": at}
    says |= {
        "func": "importFallbackPluginImporter",
        "file": "builtin_op_importers.cpp",
        "line": 5435,
    }
    if has("ParserError.node_name"):
        says |= {"node_name": node.name, "node_operator": node.op_type}
    return SimpleNamespace(**{name: lambda value=value: value for name, value in says.items()})
