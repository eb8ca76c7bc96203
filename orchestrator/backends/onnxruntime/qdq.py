"""Makes ONNX Runtime compute a Q/DQ graph in int8 on the CPU, without changing what it computes.

Our Q/DQ graphs quantize the inputs of operators, as TensorRT wants. ONNX Runtime (seen with 1.31)
uses its integer kernels for a Conv only when a QuantizeLinear reads the Conv itself; a Relu or
MaxPool between them makes it dequantize the weights on every call and compute in fp32, slower than
the fp32 model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

#: Operators that give operands unchanged, or zero: they commute with symmetric quantization.
COMMUTES: Final = frozenset(
    {"Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)

#: Optimizations that hide a quantized operator from the integer kernels: MatMul and Add become a
#: Gemm, for which ONNX Runtime has no kernel with an fp32 result. Disable them for Q/DQ graphs.
HIDES_INTEGER: Final = ("MatMulAddFusion",)


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether *model* holds a QuantizeLinear."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def quantize_conv_results(model: onnx.ModelProto) -> int:
    """Quantize Conv results that are quantized later anyway, at the same scale, in *model* itself.

    Where the only way on from a Conv leads through :data:`COMMUTES` to a QuantizeLinear with scale
    s and zero point 0, a pair with s is put directly behind the Conv. The result is the same: with
    Q(x) = clip(round(x / s)), f(DQ(Q(x))) is already a multiple of s in range, and Q keeps the
    order of values and maps 0 to 0, so Q(f(DQ(Q(x)))) = Q(f(x)). ONNX Runtime then also rounds the
    bias to int32, which can move a result that lies on the edge between two steps by one step.

    Returns:
        How many pairs were inserted.
    """
    from onnx import helper

    graph = model.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {entry.name for entry in graph.output}
    nodes: list[onnx.NodeProto] = []
    inserted = 0
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        first = readers.get(node.output[0], [])
        target = _quantizer(node.output[0], readers, outputs)
        if target is None or first[0] is target or len(target.input) < 3:
            continue
        result, parameters = node.output[0], list(target.input[1:])
        pair = [f"{result}_early_quantized", f"{result}_early_dequantized"]
        nodes.append(helper.make_node("QuantizeLinear", [result, *parameters], pair[:1]))
        nodes.append(helper.make_node("DequantizeLinear", [pair[0], *parameters], pair[1:]))
        first[0].input[0] = pair[1]
        inserted += 1
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return inserted


def _quantizer(
    name: str, readers: dict[str, list[onnx.NodeProto]], outputs: set[str]
) -> onnx.NodeProto | None:
    """Return the QuantizeLinear that everything made from *name* ends in, or None."""
    while name not in outputs and len(readers.get(name, [])) == 1:
        node = readers[name][0]
        if node.op_type == "QuantizeLinear":
            return node
        if node.op_type not in COMMUTES or node.input[0] != name or len(node.output) != 1:
            return None
        name = node.output[0]
    return None
