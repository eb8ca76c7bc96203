"""The two half-precision types that a graph can be lowered to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onnx import TensorProto, helper

from orchestrator.numerics.opsets import LEAST_OPSET

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class HalfType:
    """One type of 16 bits.

    Attributes:
        name: What the configuration calls it.
        element: Its ``TensorProto.DataType``.
        schema: Its name in operator schemas.
        largest: The largest finite number.
        smallest_normal: The smallest positive number of full precision.
        counts_to: Up to here every whole number is exact.
        least_opset: Opset from which on operators take it.
        before: What is missing below ``least_opset``, for the error; empty when nothing is.
    """

    name: str
    element: int
    schema: str
    largest: float
    smallest_normal: float
    counts_to: int
    least_opset: int = 1
    before: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type for it; NumPy rounds float32 to it to nearest even."""
        return helper.tensor_dtype_to_np_dtype(self.element)


FP16: Final = HalfType(
    name="fp16",
    element=TensorProto.FLOAT16,
    schema="tensor(float16)",
    largest=65504.0,
    smallest_normal=2.0**-14,
    counts_to=2**11,
)
"""IEEE 754 binary16: 5 bits of exponent, 11 of precision."""

BF16: Final = HalfType(
    name="bf16",
    element=TensorProto.BFLOAT16,
    schema="tensor(bfloat16)",
    largest=(2 - 2.0**-7) * 2.0**127,
    smallest_normal=2.0**-126,
    counts_to=2**8,
    least_opset=LEAST_OPSET["bf16"],
    before="convolutions, pooling and trigonometric functions take no bfloat16",
)
"""bfloat16: the upper half of a float32, so its exponents, with 8 bits of precision. The operators
that take it from opset 22 on only are those whose schema changed there (``onnx.defs``)."""

HALF_TYPES: Final = {half.name: half for half in (FP16, BF16)}
