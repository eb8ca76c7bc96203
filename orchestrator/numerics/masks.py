"""Finds the values that only ever reach a Softmax: attention scores and the masks added to them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

SOFTMAX = frozenset({"Softmax", "LogSoftmax"})

PASSES_A_MASK = frozenset(
    {
        "Add", "Cast", "Concat", "Expand", "Gather", "Identity", "Min", "Mul", "Pad", "Reshape",
        "ScatterND", "Slice", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators after which a large negative number still means "masked": they move it, select it,
add scores to it, or multiply it with a mask of zeros and ones."""


def masking_values(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of values of *graph* all of whose uses end in a Softmax.

    Walks from each value through :data:`PASSES_A_MASK` only; a value that reaches a graph output or
    any other operator, or a body of an If or Loop, is not in the result.
    """
    uses: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    captured: set[str] = {output.name for output in graph.output}
    for node in graph.node:
        for name in node.input:
            uses[name].append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                captured.update(_read(attribute.g))
    masking: set[str] = set()
    for node in reversed(graph.node):
        for name in (*node.output, *node.input):
            if name and name not in captured and _ends(uses[name], masking):
                masking.add(name)
    return frozenset(masking)


def _ends(users: list[onnx.NodeProto], masking: set[str]) -> bool:
    return bool(users) and all(
        node.op_type in SOFTMAX
        or (node.op_type in PASSES_A_MASK and all(name in masking for name in node.output))
        for node in users
    )


def _read(graph: onnx.GraphProto) -> set[str]:
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _read(attribute.g)
    return names
