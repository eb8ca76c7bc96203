"""The two 8-bit types that a graph can be quantized to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from onnx import TensorProto

from orchestrator.numerics.opsets import LEAST_OPSET


@dataclass(frozen=True, kw_only=True)
class QuantizedType:
    """One type of 8 bits, used symmetrically: a number is its code × scale.

    Attributes:
        name: What the configuration calls it.
        element: Its ``TensorProto.DataType``.
        largest: The largest code; a scale is the largest magnitude / this.
        uniform: Codes lie at equal distances.
        least_opset: Opset from which on QuantizeLinear writes it with a scale per channel.
        before: What is missing below ``least_opset``, for the error.
        least_ir: IR version from which on files may hold it (onnx.in.proto, enum Version).
        op_types: Operator types that can be quantized to it; None: any.
    """

    name: str
    element: int
    largest: int
    uniform: bool
    least_opset: int
    before: str
    least_ir: int
    op_types: frozenset[str] | None = None


INT8: Final = QuantizedType(
    name="int8",
    element=TensorProto.INT8,
    largest=127,
    uniform=True,
    least_opset=LEAST_OPSET["int8"],
    before="scales per channel do not exist",
    least_ir=3,
)

FP8: Final = QuantizedType(
    name="fp8",
    element=TensorProto.FLOAT8E4M3FN,
    largest=448,
    uniform=False,
    least_opset=LEAST_OPSET["fp8"],
    before="8-bit floats do not exist",
    least_ir=9,
    # What NVIDIA's own tool quantizes to fp8 (modelopt.onnx.quantization.fp8, 0.47).
    op_types=frozenset({"Conv", "Gemm", "MatMul", "Add"}),
)
"""E4M3: 4 bits of exponent, 3 of mantissa, no infinity; TensorRT clips to ±448 before it rounds
(developer guide, "Quantization Schemes")."""

QUANTIZED_TYPES: Final = {kind.name: kind for kind in (INT8, FP8)}
