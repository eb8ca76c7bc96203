"""Which ONNX opset has the types that a precision needs. Imports nothing: the planner reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Precision → least opset of the model that is lowered. bf16: convolutions, pooling and
#: trigonometric functions take bfloat16 from 22 on; int8: QuantizeLinear has a scale per channel
#: from 13 on; fp8: it writes FLOAT8E4M3FN from 19 on (``onnx.defs``).
LEAST_OPSET: Final[Mapping[str, int]] = {"bf16": 22, "int8": 13, "fp8": 19}
