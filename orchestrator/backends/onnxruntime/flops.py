"""Operations of a node from the shapes that ONNX Runtime's profiler saw.

A multiply-add counts as two operations. Formulas, with ``out`` the first output's element count:

- Conv: 2 · out · (input channels per group · kernel size), the last two from the weight
  ``[O, I/g, …]`` (NCHWc layouts pad channels, and the padding is computed, so it counts);
- ConvTranspose: 2 · elements of the input · (output channels per group · kernel size);
- MatMul, Gemm and their fused and quantized forms: 2 · out · K, K the contracted size of operand A;
- Attention (com.microsoft): 2·B·S·H·W for the projection by a weight ``[H, W]`` and 4·B·S²·H;
- LSTM, GRU, RNN: 2 · steps · batch · (elements of W and R).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.backends.onnxruntime.graphs import FAMILY

Shape = Sequence[int]
#: Position of a convolution's weight among its operands, where it is not 1.
_CONV_WEIGHT_AT: Final = {"QLinearConv": 3}


def flops(
    op: str,
    inputs: Sequence[Shape],
    output: Shape,
    weights: Mapping[int, Shape],
    attributes: Mapping[str, Any],
) -> int | None:
    """Return the operations of one run of a node.

    Args:
        op: Operator type as ONNX Runtime names it, e.g. ``FusedConv``.
        inputs: Shapes of the operands the profiler shows; operands that were packed at load time
            are absent from it, so positions beyond the first are not reliable.
        output: Shape of the first output.
        weights: Shapes of stored operands, by position, from the model file.
        attributes: The node's attributes.

    Returns:
        The count; 0 for other operators; None where a shape that is needed is not known.
    """
    family = FAMILY.get(op)
    if family is None:
        return 0
    if not inputs:
        return None
    if family in ("Conv", "ConvTranspose"):
        return _convolution(op, inputs, output, weights)
    if family in ("MatMul", "Gemm"):
        return _product(op, inputs[0], output, weights, attributes)
    if family == "Attention":
        return _attention(inputs, weights)
    return _recurrent(inputs, weights)


def _convolution(
    op: str, inputs: Sequence[Shape], output: Shape, weights: Mapping[int, Shape]
) -> int | None:
    first = inputs[0]
    kernel = weights.get(_CONV_WEIGHT_AT.get(op, 1)) or next(
        (shape for shape in inputs[1:] if len(shape) == len(first) >= 3), None
    )
    if kernel is None:
        return None
    size = math.prod(output if FAMILY[op] == "Conv" else first)
    return 2 * size * math.prod(kernel[1:])


def _product(
    op: str,
    first: Shape,
    output: Shape,
    weights: Mapping[int, Shape],
    attributes: Mapping[str, Any],
) -> int | None:
    if op in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm"):
        first = weights.get(0, first)  # where operand A is stored the profiler may not show it
    if not first:
        return None
    transposed = bool(attributes.get("transA")) and len(first) > 1
    return 2 * math.prod(output) * first[-2 if transposed else -1]


def _attention(inputs: Sequence[Shape], weights: Mapping[int, Shape]) -> int | None:
    weight = weights.get(1) or next((shape for shape in inputs[1:] if len(shape) == 2), None)
    if weight is None or len(inputs[0]) != 3:
        return None
    batch, length, width = inputs[0]
    return 2 * batch * length * width * weight[-1] + 4 * batch * length**2 * width


def _recurrent(inputs: Sequence[Shape], weights: Mapping[int, Shape]) -> int | None:
    matrices = [weights[at] for at in (1, 2) if at in weights]
    if len(matrices) < 2:
        matrices = [shape for shape in inputs[1:] if len(shape) == 3][:2]
    if len(matrices) < 2:
        return None
    return 2 * math.prod(inputs[0][:2]) * sum(math.prod(shape) for shape in matrices)
