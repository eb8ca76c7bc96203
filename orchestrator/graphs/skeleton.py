"""A graph without the values of its weights.

Only what a refitter replaces is left out: float tensors of at least one axis that are read by
nothing but operators whose weights TensorRT can refit, where these meet what the graph is fed.
Everything else — shapes, axes, scales of a resize and what they are computed from, scalars —
decides what is built, and stays.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Final

import onnx

from orchestrator.graphs.files import subgraphs, tensors
from orchestrator.graphs.weights import Reader, embed

#: Operator → the inputs that are weights (None: any).
_REFITTABLE: Final[dict[str, tuple[int, ...] | None]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": None,
    "Add": None,
    "Mul": None,
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "Gather": (0,),
}
_FLOATS: Final = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)


def emptied(model: onnx.ModelProto) -> tuple[int, int]:
    """Empty the weights of *model* in place; return how many there were and their bytes.

    Tensors that a nested graph (If, Loop, Scan) may read keep their values.
    """
    graph = model.graph
    if any(next(subgraphs(node), None) is not None for node in graph.node):
        return 0, 0
    other = {output.name for output in graph.output}
    fed = _fed(graph)
    for node in graph.node:
        known = node.op_type in _REFITTABLE and node.domain in ("", "ai.onnx")
        places = _REFITTABLE.get(node.op_type)
        known = known and (places is not None or any(name in fed for name in node.output))
        for at, name in enumerate(node.input):
            if not known or (places is not None and at not in places):
                other.add(name)
    count = size = 0
    for tensor in graph.initializer:
        if tensor.name in other or not tensor.dims or tensor.data_type not in _FLOATS:
            continue
        count += 1
        size += _bytes(tensor)
        for field in ("raw_data", "float_data", "int32_data", "external_data", "data_location"):
            tensor.ClearField(field)
    return count, size


def keep_digests(model: onnx.ModelProto, folder: Path) -> None:
    """Put the SHA-256 of its data into each tensor of *model* that refers to a file in *folder*.

    The model is no longer one that runs: it tells apart what was built from other data.
    """
    with Reader(folder) as read:
        for tensor in tensors(model):
            if tensor.data_location == tensor.EXTERNAL:
                embed(tensor, hashlib.sha256(read(tensor)).digest())


def _fed(graph: onnx.GraphProto) -> set[str]:
    """Return the values that are computed from what the graph is fed, and from no sizes alone.

    Integers that it is fed may be sizes as well; what meets weights at their places is none.
    """
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = {
        value.name
        for value in graph.input
        if value.name not in stored and value.type.tensor_type.elem_type in _FLOATS
    }
    for node in graph.node:
        at_places = [
            node.input[at] for at in _REFITTABLE.get(node.op_type) or () if at < len(node.input)
        ]
        weighted = any(stored.get(name) in _FLOATS for name in at_places)
        sizes = node.op_type in ("Shape", "Size")
        if weighted or (not sizes and any(name in found for name in node.input)):
            found.update(node.output)
    return found


def _bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * (4 if tensor.data_type == onnx.TensorProto.FLOAT else 2)
