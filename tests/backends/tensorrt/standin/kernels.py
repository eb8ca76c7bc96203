"""Which kernel runs a convolution or product, and how the inspector shows it.

One entry for each, in 8.6's DETAILED form, named after recorded kernels of the same type
(``data/``; bf16 and fp8, which 8.6 has not, follow their pattern).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import onnx
from onnx import TensorProto

from tests.backends.tensorrt.standin.network import HEAVY, sizes
from tests.backends.tensorrt.standin.settings import NUMBERS, fault

#: Word → (types in the kernel's name, type of the weights, format of input and output).
_SHOWN: Final = {
    "fp32": ("f32f32_f32f32_f32", "Float", "FP32"),
    "tf32": ("f32f32_tf32f32_f32", "Float", "FP32"),
    "fp16": ("f16f16_f16f16_f16", "Half", "FP16"),
    "bf16": ("bf16bf16_bf16f32_bf16", "BFloat16", "BF16"),
    "int8": ("i8f32_i8i32_f32", "Int8", "Int8"),
    "fp8": ("e4m3f32_e4m3f32_f32", "FP8", "FP8"),
}
_STORED: Final[Mapping[int, str]] = {
    TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16", TensorProto.INT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
}  # fmt: skip
_PASSES: Final = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape")


class Kernels:
    """The kernels for a model under a builder's flags.

    Args:
        model: The model, its shapes and types inferred.
        flags: The names of the flags that are set.
        typed: Whether types are the model's alone.
        held: Layers that must compute in fp32.
        calibrated: Whether a calibrator gave ranges.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        flags: Collection[str],
        *,
        typed: bool,
        held: Collection[str],
        calibrated: bool,
    ) -> None:
        graph = model.graph
        self._flags, self._typed, self._held = flags, typed, held
        self._calibrated = calibrated
        self._graph = graph
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._values = {value.name: value.type.tensor_type for value in values}

    def problems(self) -> list[str]:
        """Return the errors of a builder that cannot take model and flags, in 8.6.0's words."""
        quantized = any(node.op_type == "QuantizeLinear" for node in self._graph.node)
        where = (
            "Int8 precision has been set for a layer or layer output, but int8 is not configured"
        )
        if quantized and not self._typed and "INT8" not in self._flags:
            return [f"Error Code 4: API Usage Error ({where} in the builder)"]
        if "INT8" in self._flags and not quantized and not self._calibrated:
            return ["Calibration failure occurred with no scaling factors detected."]
        return []

    def layers(self) -> list[dict[str, Any]]:
        """Return the inspector's entry of every convolution and product."""
        return [self._entry(node) for node in self._graph.node if node.op_type in HEAVY]

    def _word(self, node: onnx.NodeProto) -> str:
        """Return the type the node multiplies in."""
        either = "tf32" if "TF32" in self._flags else "fp32"
        if fault("silent_tf32") is not None:
            return "tf32"
        if node.name in self._held:
            return either
        stored = self._stored(node.input[0])
        if stored in ("int8", "fp8"):
            return stored
        if self._typed:
            return stored or either
        # 8.6 takes a typed fp16 model without its flag, and builds a TF32 engine of it (seen).
        wanted = ("int8", "INT8") if self._calibrated else ("fp16", "FP16")
        for word, flag in (wanted, ("bf16", "BF16")):
            if flag in self._flags:
                return word
        return either if NUMBERS < (10,) or not stored else stored

    def _stored(self, name: str) -> str:
        """Return the type of a tensor; of what a DequantizeLinear gives, the type it was in."""
        node = self._made_by.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return self._stored(node.input[0])
        if name in self._weights:
            return _STORED.get(self._weights[name].data_type, "")
        return _STORED.get(self._values[name].elem_type, "") if name in self._values else ""

    def _weight(self, name: str) -> onnx.TensorProto | None:
        """Return the initializer behind a tensor, through casts and quantization."""
        while name in self._made_by and self._made_by[name].op_type in _PASSES:
            name = self._made_by[name].input[0]
        return self._weights.get(name)

    def _tensor(self, name: str, shown: str) -> dict[str, Any]:
        dims = sizes(self._values[name]) if name in self._values else []
        text = f"Row major linear {shown} format"
        return {"Name": name, "Location": "Device", "Dimensions": dims, "Format/Datatype": text}

    def _entry(self, node: onnx.NodeProto) -> dict[str, Any]:
        kernel, weights, shown = _SHOWN[self._word(node)]
        convolves = node.op_type.startswith("Conv")
        family = "fprop_implicit_gemm" if convolves else "gemm"
        entry: dict[str, Any] = {
            "Name": node.name,
            "LayerType": "CaskConvolution" if convolves else "CaskGemmMatrixMultiply",
            "Inputs": [self._tensor(node.input[0], shown)],
            "Outputs": [self._tensor(node.output[0], shown)],
            "ParameterType": "Convolution" if convolves else "MatrixMultiply",
            "TacticName": f"sm90_xmma_{family}_{kernel}_standin",
            "TacticValue": "0x0000000000000001",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
        weight = self._weight(node.input[1])
        if weight is not None:
            entry["Weights"] = {"Type": weights, "Count": math.prod(weight.dims)}
            if convolves:
                entry["OutMaps"] = int(weight.dims[0])
        return entry
