"""Decides the type of every value and use of a half-precision graph, without changing the graph.

The rules are those of :mod:`orchestrator.numerics.half`, which carries the plan out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError
from orchestrator.numerics.half_constants import overflowing
from orchestrator.numerics.half_types import HalfType
from orchestrator.numerics.schemas import element_types, formal, opset_versions, schema_of
from orchestrator.numerics.selection import node_label

FLOAT = TensorProto.FLOAT

# Attributes that only generators have: a result's type that no operand decides.
GENERATED = {"dtype", "output_datatype"}

# Origin of a value, in the order in which operands combine.
CONSTANT, SHAPE, DATA = 0, 1, 2


@dataclass(eq=False)
class Value:
    """One value of the graph: its type before and after, and who wants it in which type."""

    name: str
    element: int
    stored: int
    origin: int
    constant: TensorProto | None = None
    fixed: int | None = None
    plain: bool = True
    users: dict[int, list[str]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def want(self, element: int, user: str) -> None:
        """Note that *user* reads the value in type *element*."""
        if self.element == FLOAT and self.plain:
            self.users.setdefault(element, []).append(user)

    def named(self, element: int) -> str:
        """Return the name under which the value exists in type *element*."""
        return self.names.get(element, self.name)


@dataclass
class NodePlan:
    """One node: its inputs with the type each is wanted in, its outputs, its bodies."""

    node: onnx.NodeProto
    inputs: list[tuple[Value | None, int]]
    outputs: list[Value | None]
    bodies: list[GraphPlan]


@dataclass
class GraphPlan:
    """One graph or body: its values, the type wanted of each output, its nodes."""

    graph: onnx.GraphProto
    inputs: list[Value]
    initializers: list[Value]
    nodes: list[NodePlan]
    outputs: list[tuple[Value, int]]
    values: dict[str, Value]


class Planner:
    """Decides the type of every value and every use, without changing the graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        half: HalfType,
        keep_op_types: frozenset[str],
        keep_nodes: frozenset[str],
    ) -> None:
        self.half = half
        self.opsets = opset_versions(model)
        self.keep_op_types = keep_op_types
        self.keep_nodes = keep_nodes
        self.kept: Counter[str] = Counter()
        self.lowered: Counter[str] = Counter()

    def graph(
        self,
        graph: onnx.GraphProto,
        outer: Mapping[str, Value],
        input_type: int,
        output_type: int,
        *,
        kept: bool,
    ) -> GraphPlan:
        """Plan *graph*, whose float32 inputs and outputs have the types given.

        Args:
            graph: The graph or body, annotated.
            outer: Values of the enclosing graphs.
            input_type: Element type of its float32 inputs.
            output_type: Element type of its float32 outputs.
            kept: Everything in it stays in fp32.

        Raises:
            StageError: when the type of a value is unknown.
        """
        types = element_types(graph)
        plain = {
            value.name
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.HasField("tensor_type")
        } | {tensor.name for tensor in graph.initializer}
        scope = dict(outer)
        plan = GraphPlan(graph, [], [], [], [], {})

        def declare(name: str, stored: int, origin: int) -> Value:
            element = types.get(name, TensorProto.UNDEFINED)
            value = Value(
                name=name,
                element=element,
                stored=stored if element == FLOAT else element,
                origin=origin,
                plain=name in plain,
            )
            scope[name] = plan.values[name] = value
            return value

        for entry in graph.input:
            plan.inputs.append(declare(entry.name, input_type, DATA))
        given = {entry.name for entry in graph.input}
        for tensor in graph.initializer:
            if tensor.name not in given:
                value = declare(tensor.name, self.half.element, CONSTANT)
                if value.element == FLOAT:
                    value.constant = tensor
                plan.initializers.append(value)
        for node in graph.node:
            plan.nodes.append(self._node(node, scope, declare, kept=kept))
        for entry in graph.output:
            value = scope[entry.name]
            wanted = output_type if value.element == FLOAT else value.element
            value.want(wanted, "the graph's output")
            plan.outputs.append((value, wanted))
        return plan

    def _node(
        self,
        node: onnx.NodeProto,
        scope: Mapping[str, Value],
        declare: Callable[[str, int, int], Value],
        *,
        kept: bool,
    ) -> NodePlan:
        inputs = [scope[name] if name else None for name in node.input]
        for value in inputs:
            if value is not None and value.plain and value.element == TensorProto.UNDEFINED:
                raise _unknown_type(node, value.name)
        kept = kept or self._is_kept(node)
        if node.op_type == "Constant" and not node.domain:
            return _constant_plan(node, declare, self.half)
        bodies = [a.g for a in node.attribute if a.HasField("g")]
        outputs = [declare(name, FLOAT, DATA) if name else None for name in node.output]
        lowered = not kept and self._can_lower(node, inputs, outputs, bodies)
        if lowered:
            self._store_half(node, outputs)
        wants = self._wants(node, inputs, lowered)
        for value, wanted in wants:
            if value is not None:
                value.want(wanted, node_label(node))
        inner = self.half.element if lowered else FLOAT
        plans = [self.graph(body, scope, inner, inner, kept=not lowered) for body in bodies]
        if node.op_type not in ("Shape", "Size"):
            self._count(node, wants, outputs)
        return NodePlan(node, wants, outputs, plans)

    def _can_lower(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value | None],
        bodies: Sequence[onnx.GraphProto],
    ) -> bool:
        schema = schema_of(node, self.opsets)
        origin = _origin(node, inputs, bodies)
        for value in outputs:
            if value is not None:
                value.origin = origin
                if not value.plain and schema is None:
                    raise _unknown_type(node, value.name)
        if schema is None or not all(v is None or v.plain for v in (*inputs, *outputs)):
            return False
        if GENERATED & set(schema.attributes):
            return False
        floats = [v for v in inputs if v is not None and v.element == FLOAT]
        return bool(bodies) or not self._stays_exact(floats, outputs, origin)

    def _store_half(self, node: onnx.NodeProto, outputs: Sequence[Value | None]) -> None:
        schema = schema_of(node, self.opsets)
        for index, value in enumerate(outputs):
            parameter = formal(list(schema.outputs), index) if schema is not None else None
            if value is not None and value.element == FLOAT and parameter is not None:
                value.stored = self._element(parameter)

    def _element(self, parameter: onnx.defs.OpSchema.FormalParameter) -> int:
        """Return the type that a float takes at *parameter* of an operator that is lowered."""
        return self.half.element if self.half.schema in parameter.types else FLOAT

    def _count(
        self,
        node: onnx.NodeProto,
        wants: Sequence[tuple[Value | None, int]],
        outputs: Sequence[Value | None],
    ) -> None:
        uses = [wanted for value, wanted in wants if value is not None and value.element == FLOAT]
        uses += [v.stored for v in outputs if v is not None and v.element == FLOAT]
        if uses:
            (self.lowered if self.half.element in uses else self.kept)[node.op_type] += 1

    def _is_kept(self, node: onnx.NodeProto) -> bool:
        return node.op_type in self.keep_op_types or node_label(node) in self.keep_nodes

    def _stays_exact(
        self, floats: Sequence[Value], outputs: Sequence[Value | None], origin: int
    ) -> bool:
        """Return whether a node stays in fp32 because its floats come from shapes alone."""
        if any(
            v.constant is not None and overflowing(numpy_helper.to_array(v.constant), self.half)
            for v in floats
        ):
            return False
        results = [v for v in outputs if v is not None and v.element == FLOAT]
        if results:
            return origin == SHAPE
        moving = [v for v in floats if v.origin != CONSTANT]
        return bool(moving) and all(v.stored == FLOAT for v in moving)

    def _wants(
        self, node: onnx.NodeProto, inputs: Sequence[Value | None], lowered: bool
    ) -> list[tuple[Value | None, int]]:
        schema = schema_of(node, self.opsets)
        wants: list[tuple[Value | None, int]] = []
        for index, value in enumerate(inputs):
            wanted: int = FLOAT
            parameter = formal(list(schema.inputs), index) if schema is not None else None
            if lowered and parameter is not None:
                wanted = self._element(parameter)
            if node.op_type in ("Cast", "Shape", "Size") and value is not None:
                wanted = value.stored  # These take any type, so none needs a Cast before them.
            wants.append((value, wanted))
        return wants


def _origin(
    node: onnx.NodeProto, inputs: Sequence[Value | None], bodies: Sequence[onnx.GraphProto]
) -> int:
    """Return where a result comes from; a float result only looks at float operands."""
    if bodies:
        return DATA
    if node.op_type in ("Shape", "Size"):
        return SHAPE
    if node.op_type == "ConstantOfShape":
        return CONSTANT
    present = [value for value in inputs if value is not None]
    floats = [value for value in present if value.element == FLOAT]
    if node.op_type == "Cast" and present and present[0].element == TensorProto.BOOL:
        return CONSTANT if present[0].origin != DATA else DATA
    considered = floats or present
    if not considered:
        return DATA if node.op_type.startswith("Random") else CONSTANT
    return max(value.origin for value in considered)


def _constant_plan(
    node: onnx.NodeProto, declare: Callable[[str, int, int], Value], half: HalfType
) -> NodePlan:
    value = declare(node.output[0], half.element, CONSTANT)
    if value.element == FLOAT:
        value.constant = _constant_tensor(node)
        if value.constant is None:
            value.stored = FLOAT
    return NodePlan(node, [], [value], [])


def _constant_tensor(node: onnx.NodeProto) -> TensorProto | None:
    """Return the float32 tensor of a Constant node, or None for a sparse one."""
    attribute = node.attribute[0]
    name = node.output[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = name
        return tensor
    if attribute.name == "value_float":
        return helper.make_tensor(name, FLOAT, [], [attribute.f])
    if attribute.name == "value_floats":
        return helper.make_tensor(name, FLOAT, [len(attribute.floats)], list(attribute.floats))
    return None


def _unknown_type(node: onnx.NodeProto, value: str) -> StageError:
    return StageError(
        f"the type of '{value}' is unknown, because an operator without a schema produces it",
        where=f"node '{node_label(node)}' ({node.op_type})",
        hint="declare the value in the graph's value_info, or use precision=fp32",
    )
