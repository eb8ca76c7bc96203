"""What a model file stores: its tensors, their sizes, and which operators take them as weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from orchestrator.backends.base import Weight
from orchestrator.graphs import files as onnx_files

#: Operators that convolve or multiply matrices, to the ONNX operator they stand for.
FAMILY: Final = {
    "Conv": "Conv", "FusedConv": "Conv", "NhwcConv": "Conv", "NhwcFusedConv": "Conv",
    "QLinearConv": "Conv", "ConvInteger": "Conv",
    "ConvTranspose": "ConvTranspose", "ConvTransposeWithDynamicPads": "ConvTranspose",
    "Gemm": "Gemm", "FusedGemm": "Gemm", "QGemm": "Gemm",
    "MatMul": "MatMul", "FusedMatMul": "MatMul", "TransposeMatMul": "MatMul",
    "QLinearMatMul": "MatMul", "MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul", "MatMulNBits": "MatMul",
    "Attention": "Attention", "QAttention": "Attention",
    "LSTM": "LSTM", "DynamicQuantizeLSTM": "LSTM", "GRU": "GRU", "RNN": "RNN",
}  # fmt: skip
#: Positions of the operands that can be weights, where it is not position 1.
_WEIGHT_AT: Final = {
    "QLinearConv": (3,), "QLinearMatMul": (0, 3), "QGemm": (0, 3),
    "MatMul": (0, 1), "FusedMatMul": (0, 1), "Gemm": (0, 1), "FusedGemm": (0, 1),
    "LSTM": (1, 2), "DynamicQuantizeLSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
_SEEN_THROUGH: Final = frozenset({
    "Cast", "DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Identity", "Squeeze",
    "Unsqueeze",
})  # fmt: skip


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield *graph* and every graph inside its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for inner in onnx_files.subgraphs(node):
            yield from graphs(inner)


def stored(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every stored value by name: initializers and Constants, graphs inside included."""
    for each in graphs(graph):
        for tensor in each.initializer:
            yield tensor.name, tensor
        for node in each.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        yield node.output[0], attribute.t


def read_weights(model: onnx.ModelProto) -> list[Weight]:
    """Return every stored tensor of *model* (loaded without external data) and who consumes it."""
    found = list(stored(model.graph))
    nodes = [node for each in graphs(model.graph) for node in each.node]
    consumers = _consumers(nodes, {name for name, _ in found})
    return [
        Weight(
            name=name,
            dtype=onnx_files.dtype_name(tensor.data_type),
            nbytes=onnx_files.nbytes(tensor),
            consumers=tuple(FAMILY[node.op_type] for node in consumers[name]),
            nodes=tuple(node.name for node in consumers[name]),
        )
        for name, tensor in found
    ]


def _consumers(nodes: list[NodeProto], names: set[str]) -> defaultdict[str, list[NodeProto]]:
    makers = {output: node for node in nodes for output in node.output}
    found: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        if node.op_type not in FAMILY:
            continue
        for position in _WEIGHT_AT.get(node.op_type, (1,)):
            if position >= len(node.input):
                continue
            name = node.input[position]
            while name not in names and name in makers:
                maker = makers[name]
                if maker.op_type not in _SEEN_THROUGH:
                    break
                name = maker.input[0]
            if name in names:
                found[name].append(node)
    return found
