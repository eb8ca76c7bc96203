"""Whether a refitted engine has all new weights: a refitter leaves out what it does not know.

TensorRT 10 knows weights by the names of the ONNX initializers and skips the others without a word;
8.6 knows layers and the roles of their weights. What cannot be traced counts as not replaced: the
engine is built again then, which is slower and always right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from orchestrator.graphs import files as onnx_files
from orchestrator.graphs.skeleton import emptied

#: Roles of a layer's weights in the order of the node's inputs, from the second on.
_ROLES = {"Conv": ("KERNEL", "BIAS"), "ConvTranspose": ("KERNEL", "BIAS")}
_DATA = ("raw_data", "float_data", "int32_data", "external_data")


@dataclass(frozen=True)
class Known:
    """What a refitter knows of an engine.

    Attributes:
        weights: Names of weights.
        layers: Layers with their roles, such as ``("conv1", "KERNEL")``.
    """

    weights: frozenset[str]
    layers: frozenset[tuple[str, str]]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Known:
        """Return it from the worker's ``{"weights": [name], "layers": [[layer, role]]}``."""
        layers = ((str(layer), str(role)) for layer, role in found.get("layers") or ())
        return cls(frozenset(map(str, found.get("weights") or ())), frozenset(layers))


def not_replaced(tree: Path, known: Known) -> list[str]:
    """Return the weights that an engine of *tree*'s skeleton may still have from another model.

    Args:
        tree: The ONNX tree that the engine was refitted from.
        known: What the refitter knew.

    Returns:
        Names of initializers that the skeleton leaves out and the refitter does not know, sorted.

    Raises:
        StageError: *tree* holds no ONNX model.
    """
    model = onnx_files.load(tree, weights=False)
    replaced = set(known.weights)
    folded: list[onnx.NodeProto] = []
    for node in model.graph.node:
        replaced.update(_by_layer(node, known))
        if node.op_type == "BatchNormalization" and not replaced.issuperset(node.input[1:5]):
            folded.append(node)
    if folded and _combined(model.graph, known) >= 2 * len(folded):
        replaced.update(name for node in folded for name in node.input[1:5])
    read = {name for node in model.graph.node for name in node.input}
    return sorted((_emptied(model) & read) - replaced)


def _by_layer(node: onnx.NodeProto, known: Known) -> Iterator[str]:
    """Yield the weights of *node* that are known as a layer's: by name, as the parser names it."""
    layer = node.name or (f"node_of_{node.output[0]}" if node.output else "")
    for role, name in zip(_ROLES.get(node.op_type, ()), node.input[1:], strict=False):
        if (layer, role) in known.layers:
            yield name
    scaled = {(layer, "SCALE"), (layer, "SHIFT")}  # the parser makes one layer of all four
    if node.op_type == "BatchNormalization" and scaled <= known.layers:
        yield from node.input[1:5]
    yield from (name for name in node.input if (name, "CONSTANT") in known.layers)


def _combined(graph: onnx.GraphProto, known: Known) -> int:
    """Return how many known weights can be the scales and shifts that the parser computed.

    They bear names of its own, as does what it makes of each ConstantOfShape.
    """
    named = {tensor.name for tensor in graph.initializer}
    named.update(name for node in graph.node for name in node.output)
    others = sum(node.op_type == "ConstantOfShape" for node in graph.node)
    return len(known.weights - named) - others


def _emptied(model: onnx.ModelProto) -> set[str]:
    """Empty *model* and return the names of the weights that lost values."""
    had = {tensor.name for tensor in model.graph.initializer if _has_data(tensor)}
    emptied(model)
    return had - {tensor.name for tensor in model.graph.initializer if _has_data(tensor)}


def _has_data(tensor: onnx.TensorProto) -> bool:
    return any(len(getattr(tensor, field)) for field in _DATA)


__all__ = ["Known", "not_replaced"]
