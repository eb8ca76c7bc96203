"""TensorRT's engine inspector JSON, of every major, read into one form.

8.6 (tested on real output of 8.6.0) gives ``Layers`` and ``Bindings`` (names); tensors carry
``Format/Datatype`` such as ``Row major linear FP32``, or ``N/A due to dynamic shapes`` when no
context with shapes was set. Raw control characters stand inside strings, so ``json`` must not be
strict.

10.x (from public listings, unverified here) writes plain types there (``Half``, ``Float``), adds
layers such as ``gemm`` and ``kgen`` whose constant operands are not listed, and separates the ONNX
layers in ``Metadata`` by nothing or by other control characters.

11.x (from NVIDIA's migration page, unverified here) replaces ``Bindings`` by ``I/O Tensors``
(objects with ``Name``, ``IOMode``, ``DataType``, ``Dimensions``) and ``Format/Datatype`` by
``Format`` and ``Datatype``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.errors import StageError

#: Words of TensorRT's type names, in lower case, to NumPy-like names.
TYPES: Final[Mapping[str, str]] = {
    "float": "float32", "fp32": "float32", "float32": "float32",
    "half": "float16", "fp16": "float16", "float16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
    "int8": "int8", "uint8": "uint8", "int32": "int32", "int64": "int64", "bool": "bool",
    "fp8": "float8", "float8": "float8", "fp8e4m3": "float8", "e4m3": "float8",
    "int4": "int4", "fp4": "float4", "fp4e2m1": "float4", "e8m0": "float8_e8m0",
    "double": "float64", "fp64": "float64",
}  # fmt: skip
#: Size of one element in bits.
BITS: Final[Mapping[str, int]] = {
    "float64": 64, "int64": 64, "float32": 32, "int32": 32, "float16": 16, "bfloat16": 16,
    "int8": 8, "uint8": 8, "bool": 8, "float8": 8, "float8_e8m0": 8, "int4": 4, "float4": 4,
}  # fmt: skip
_ONNX: Final = re.compile(r"\[ONNX Layer: ((?:[^\[\]]|\[[^\[\]]*\])*)\]")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a layer, or of the engine.

    Attributes:
        name: Its name.
        dims: Its sizes, -1 where free; None when the inspector gives none.
        dtype: Its type; None when the inspector gives none (``N/A due to dynamic shapes``).
    """

    name: str
    dims: tuple[int, ...] | None
    dtype: str | None


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Weights or bias of a layer: type and number of elements."""

    dtype: str
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, unpadded."""
        return (self.count * BITS.get(self.dtype, 32) + 7) // 8


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: Its name, the fused parts joined by ``" + "``.
        kind: ``LayerType``, e.g. ``CaskConvolution``.
        parameter_type: ``ParameterType``, e.g. ``Convolution``; empty when not given.
        inputs: Its inputs.
        outputs: Its outputs.
        weights: Its weights (``Weights``, ``ConvWeights``); None when not given.
        bias: Its bias (``Bias``, ``ConvBias``); None when not given.
        tactic: ``TacticName``; empty when not given.
        nodes: The ONNX nodes it implements, without repeats.
        parameters: Every further field, as given.
    """

    name: str
    kind: str
    parameter_type: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    weights: Constant | None = None
    bias: Constant | None = None
    tactic: str = ""
    nodes: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine as its inspector shows it: layers in order, and the names of inputs and outputs."""

    layers: tuple[Layer, ...]
    io: tuple[str, ...]


def parse(information: str | Mapping[str, Any]) -> Engine:
    """Return the engine in an inspector's JSON, given as text or as parsed.

    Raises:
        StageError: it is not JSON, holds no layers, or layers without details (an engine that was
            built without DETAILED profiling verbosity).
    """
    found = _json(information) if isinstance(information, str) else information
    layers = found.get("Layers")
    if not isinstance(layers, list) or not layers:
        raise StageError("the engine inspector's JSON holds no layers")
    if not any(isinstance(layer, Mapping) and "LayerType" in layer for layer in layers):
        raise StageError(
            "the engine holds the names of its layers and nothing more, so its precision cannot be "
            "audited",
            where="target.profiling_verbosity",
            hint="build with target.profiling_verbosity=detailed",
        )
    tensors = found.get("I/O Tensors", found.get("Bindings")) or ()
    io = (t.get("Name", "") if isinstance(t, Mapping) else t for t in tensors)
    return Engine(
        layers=tuple(_layer(layer) for layer in layers if isinstance(layer, Mapping)),
        io=tuple(str(name) for name in io),
    )


def type_in(text: str) -> str | None:
    """Return the type that a format description or a type name speaks of; None for none.

    ``Channel major FP16 format where channel % 8 == 0`` is float16, ``Half`` too.
    """
    for word in re.findall(r"[A-Za-z0-9]+", text):
        if word.lower() in TYPES:
            return TYPES[word.lower()]
    return None


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text, strict=False)
    except ValueError as exc:
        raise StageError(f"the engine inspector's output is not JSON: {exc}") from exc
    if not isinstance(found, Mapping):
        raise StageError("the engine inspector's output is not a JSON object")
    return found


def _layer(raw: Mapping[str, Any]) -> Layer:
    read = {"Name", "LayerType", "ParameterType", "Inputs", "Outputs", "TacticName", "Metadata"}
    name = str(raw.get("Name", ""))
    return Layer(
        name=name,
        kind=str(raw.get("LayerType", "")),
        parameter_type=str(raw.get("ParameterType", "")),
        inputs=tuple(_tensors(raw.get("Inputs"))),
        outputs=tuple(_tensors(raw.get("Outputs"))),
        weights=_constant(raw.get("Weights", raw.get("ConvWeights"))),
        bias=_constant(raw.get("Bias", raw.get("ConvBias"))),
        tactic=str(raw.get("TacticName") or ""),
        nodes=tuple(dict.fromkeys(_ONNX.findall(str(raw.get("Metadata") or "")))),
        parameters={key: value for key, value in raw.items() if key not in read},
    )


def _tensors(entries: Any) -> Iterator[Tensor]:
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping):
            continue
        dims = entry.get("Dimensions")
        known = isinstance(dims, list) and all(isinstance(n, int) for n in dims)
        yield Tensor(
            name=str(entry.get("Name", "")),
            dims=tuple(dims) if isinstance(dims, list) and known else None,
            dtype=_dtype(entry),
        )


def _dtype(entry: Mapping[str, Any]) -> str | None:
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        found = type_in(str(entry.get(key) or ""))
        if found:
            return found
    return None


def _constant(raw: Any) -> Constant | None:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("Count"), int) or raw["Count"] <= 0:
        return None
    kind = next((str(raw[key]) for key in ("Type", "Datatype", "DataType") if key in raw), "")
    return Constant(dtype=type_in(kind) or "unknown", count=raw["Count"])
