"""QuantizeLinear/DequantizeLinear pairs: their scales, and where they go into a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError
from orchestrator.numerics.quantized_types import INT8, QuantizedType
from orchestrator.numerics.selection import all_nodes
from orchestrator.numerics.tensorrt_qdq import channel_axis

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


def weight_scale(weight: Array, axis: int | None, kind: QuantizedType = INT8) -> Array:
    """Return the symmetric scale of *weight*: its largest magnitude / 127 (int8) or 448 (fp8).

    Args:
        weight: float32, any shape.
        axis: The axis with a scale of its own per index, or None for a single scale.
        kind: The 8-bit type.

    Returns:
        float32, ``[weight.shape[axis]]`` or ``[]``. A channel of zeros gets the scale of one whose
        largest magnitude is 1.
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest: Array = np.abs(weight).max(axis=others, initial=0.0)
    return _scale(largest, kind)


def _scale(threshold: Array | float, kind: QuantizedType) -> Array:
    limit = np.asarray(threshold, dtype=np.float32)
    limit = np.where(limit > 0, limit, np.float32(1))
    smallest = np.finfo(np.float32).tiny  # A subnormal scale may be flushed, and 0 / 0 is NaN.
    scale: Array = np.maximum(limit / np.float32(kind.largest), smallest)
    return scale.astype(np.float32)


class PairWriter:
    """Inserts pairs into one graph; a tensor that several nodes read gets one.

    Attributes:
        weights: Weights behind a pair so far.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        constants: Mapping[str, TensorProto],
        thresholds: Mapping[str, float],
        kind: QuantizedType,
        *,
        per_channel: bool,
    ) -> None:
        """Prepare for *graph*.

        Args:
            graph: The graph, changed by :meth:`write`.
            constants: Its float32 constants.
            thresholds: Largest magnitude of each activation that gets a pair.
            kind: The 8-bit type.
            per_channel: One weight scale per output channel, where the weight has that axis.
        """
        self.graph = graph
        self.constants = constants
        self.thresholds = thresholds
        self.kind = kind
        self.per_channel = per_channel
        self.weights = 0
        self._pairs: dict[tuple[str, int | None], str] = {}
        self._taken = set(_names(graph))
        self._nodes: list[onnx.NodeProto] = []

    def write(self, chosen: Mapping[int, Sequence[int]]) -> None:
        """Put a pair before the inputs *chosen*: index of the node → numbers of its inputs.

        Raises:
            StageError: a weight holds NaN or infinity.
        """
        for index, node in enumerate(list(self.graph.node)):
            for slot in chosen.get(index, ()):
                node.input[slot] = self._pair(node, slot)
            self._nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self._nodes)

    def _pair(self, node: onnx.NodeProto, slot: int) -> str:
        name = node.input[slot]
        tensor = self.constants.get(name)
        axis = None
        if tensor is not None and self.per_channel and slot == 1:
            axis = channel_axis(node, len(tensor.dims))
        if (name, axis) not in self._pairs:
            self._pairs[name, axis] = self._insert(name, self._scale_of(name, tensor, axis), axis)
            self.weights += tensor is not None
        return self._pairs[name, axis]

    def _scale_of(self, name: str, tensor: TensorProto | None, axis: int | None) -> Array:
        if tensor is None:
            return _scale(self.thresholds[name], self.kind)
        weight = numpy_helper.to_array(tensor)
        if not np.isfinite(weight).all():
            raise StageError(
                f"weight '{name}' holds NaN or infinity, which {self.kind.name} cannot",
                where="precision.name",
                hint="check the checkpoint",
            )
        return weight_scale(weight, axis, self.kind)

    def _insert(self, name: str, scale: Array, axis: int | None) -> str:
        scale_name, zero_name = self._fresh(f"{name}_scale"), self._fresh(f"{name}_zero_point")
        quantized, result = self._fresh(f"{name}_quantized"), self._fresh(f"{name}_dequantized")
        # Both types write zero as a byte of zero bits.
        zero = helper.make_tensor(
            zero_name, self.kind.element, scale.shape, bytes(scale.size), raw=True
        )
        self.graph.initializer.append(numpy_helper.from_array(scale, scale_name))
        self.graph.initializer.append(zero)
        for op_type, source, target in (
            ("QuantizeLinear", name, quantized),
            ("DequantizeLinear", quantized, result),
        ):
            node = helper.make_node(
                op_type,
                [source, scale_name, zero_name],
                [target],
                name=self._fresh(f"{name}_{op_type}"),
            )
            if axis is not None:
                node.attribute.append(helper.make_attribute("axis", axis))
            self._nodes.append(node)
        return result

    def _fresh(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (entry.name for entry in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in all_nodes(graph):
        yield node.name
        yield from node.output
