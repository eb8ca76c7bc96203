"""An fp32 graph becomes a typed fp16 or bf16 one, for runtimes that take precision from ONNX types.

Every fp32 value gets one type, decided from the operator's schema at the model's opset: a parameter
whose schema allows the half type takes it, one that does not (``Resize`` scales, ``Range``, a
custom operator) stays float32, and one Cast is inserted where a value is wanted in the other type.
The result agrees in type at every operator, as TensorRT's strongly typed networks need; it holds no
Cast to float32 that is left over from the fp32 graph.

What stays in fp32 without being asked for, beyond what the schemas say:

* floats computed from shapes alone (positions, scale factors): fp16 counts exactly only to 2048 and
  bf16 to 256, so a resize factor or a rotary position would be wrong, and they cost nothing;
* comparisons of such floats, which have no float result;
* generators (random numbers, windows, identity matrices), which few runtimes have in half types;
* sequences and optionals, with the operators that touch them.

Why not an existing converter: those of onnxconverter-common and ``onnxruntime.transformers`` clamp
weights, raise small ones, work from lists of operators that age, and leave a graph with
``Cast(to=FLOAT)`` nodes inconsistent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from orchestrator.numerics.half_constants import (
    ConstantReport,
    Overflow,
    overflowing,
    refuse,
    to_half,
)
from orchestrator.numerics.half_plan import FLOAT, GraphPlan, NodePlan, Planner, Value
from orchestrator.numerics.half_types import HalfType
from orchestrator.numerics.masks import masking_values
from orchestrator.numerics.schemas import annotate, check_opset, check_type_agreement
from orchestrator.numerics.selection import check_selection, node_label

# Attributes that name the type of a result: of Cast, and of DequantizeLinear from opset 23 on.
TYPE_ATTRIBUTES = ("to", "output_dtype")


@dataclass(frozen=True, kw_only=True)
class CastReport:
    """What lowering did.

    Attributes:
        constants: What rounding the constants did.
        kept: Nodes left in fp32, by operator type.
        lowered: Nodes that compute in half precision, by operator type.
        casts: Casts inserted.
    """

    constants: ConstantReport
    kept: dict[str, int]
    lowered: dict[str, int]
    casts: int


def lower_to_half(
    model: onnx.ModelProto,
    half: HalfType,
    *,
    keep_io: bool = True,
    keep_op_types: Sequence[str] = (),
    keep_nodes: Sequence[str] = (),
) -> tuple[onnx.ModelProto, CastReport]:
    """Return a copy of *model* that computes in *half*, and what was done.

    Local functions are inlined first. Values of other types than float32 are left alone. A kept
    node computes in fp32 between Casts; keeping an If, Loop or Scan keeps its bodies.

    Args:
        model: An fp32 model with its weights loaded.
        half: The type to compute in.
        keep_io: Graph inputs and outputs stay float32, with Casts at the boundary; otherwise all
            float32 inputs and outputs become half precision.
        keep_op_types: Operator types left in fp32.
        keep_nodes: Names of nodes left in fp32 (the first output's name for a node without one).

    Raises:
        StageError: an opset whose operators lack the type; a kept name that does not exist; a
            weight beyond the type's range that no kept node holds; a value whose type cannot be
            inferred; a result whose types do not agree.
    """
    if model.functions:
        lowered = onnx.inliner.inline_local_functions(model)
    else:
        lowered = onnx.ModelProto()
        lowered.CopyFrom(model)
    check_opset(lowered, half.least_opset, half.name, half.before)
    check_selection(lowered.graph, keep_nodes, keep_op_types)
    annotate(lowered)
    planner = Planner(lowered, half, frozenset(keep_op_types), frozenset(keep_nodes))
    boundary = FLOAT if keep_io else half.element
    plan = planner.graph(lowered.graph, {}, boundary, boundary, kept=False)
    writer = _Writer(lowered, half, masking_values(lowered.graph))
    writer.write(plan, top=True)
    refuse(writer.overflows, half)
    _check(lowered)
    return lowered, CastReport(
        constants=writer.report,
        kept=dict(sorted(planner.kept.items())),
        lowered=dict(sorted(planner.lowered.items())),
        casts=writer.casts,
    )


class _Writer:
    """Rewrites the graph as planned."""

    def __init__(self, model: onnx.ModelProto, half: HalfType, masks: frozenset[str]) -> None:
        self.half = half
        self.report = ConstantReport()
        self.overflows: list[Overflow] = []
        self.casts = 0
        self.masks = masks
        self.taken = set(_all_names(model.graph))

    def write(self, plan: GraphPlan, *, top: bool) -> None:
        graph = plan.graph
        if top:
            for value, wanted in plan.outputs:
                value.fixed = wanted
        for value in plan.values.values():
            self._name(value)
        nodes: list[onnx.NodeProto] = []
        self._write_inputs(plan, nodes)
        self._write_initializers(plan)
        for node_plan in plan.nodes:
            self._write_node(node_plan, nodes)
        for entry, (value, wanted) in zip(graph.output, plan.outputs, strict=True):
            if value.element == FLOAT and value.plain:
                entry.name = value.named(wanted)
                entry.type.tensor_type.elem_type = wanted
        for info in graph.value_info:
            value = plan.values[info.name]
            if value.element == FLOAT and value.plain:
                element = next(e for e, name in value.names.items() if name == info.name)
                info.type.tensor_type.elem_type = element
        del graph.node[:]
        graph.node.extend(nodes)

    def _name(self, value: Value) -> None:
        if value.element != FLOAT or not value.plain:
            return
        if value.constant is not None and value.fixed is None:
            half = self.half.element
            value.stored = half if half in value.users else FLOAT
        base = value.stored if value.fixed is None else value.fixed
        value.names[base] = value.name
        for element in dict.fromkeys((value.stored, *value.users)):
            if element != base:
                value.names[element] = self._fresh(value.name, element)

    def _fresh(self, name: str, element: int) -> str:
        stem = f"{name}_{self.half.name if element == self.half.element else 'fp32'}"
        fresh, number = stem, 1
        while fresh in self.taken:
            fresh, number = f"{stem}_{number}", number + 1
        self.taken.add(fresh)
        return fresh

    def _write_inputs(self, plan: GraphPlan, nodes: list[onnx.NodeProto]) -> None:
        for entry, value in zip(plan.graph.input, plan.inputs, strict=True):
            if value.element == FLOAT and value.plain:
                entry.type.tensor_type.elem_type = value.stored
                entry.name = value.named(value.stored)
                self._cast_after(value, nodes)

    def _write_initializers(self, plan: GraphPlan) -> None:
        tensors: list[TensorProto] = []
        given = {value.name: value for value in plan.inputs}
        constants = {value.name: value for value in plan.initializers}
        for tensor in plan.graph.initializer:
            if tensor.name in constants and constants[tensor.name].constant is not None:
                tensors.extend(self._constants(constants[tensor.name]))
            elif tensor.name in given and given[tensor.name].stored == self.half.element:
                users = given[tensor.name].users.get(self.half.element, ["the graph's input"])
                tensors.append(self._half(tensor, tensor.name, users))
            else:
                tensors.append(tensor)
        copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
        del plan.graph.initializer[:]
        plan.graph.initializer.extend(copies)

    def _constants(self, value: Value) -> Iterator[TensorProto]:
        if value.constant is None:
            return
        for element, name in value.names.items():
            if element == self.half.element:
                users = value.users.get(element, ["the graph's output"])
                yield self._half(value.constant, name, users)
            else:
                if value.users.get(FLOAT):
                    array = numpy_helper.to_array(value.constant)
                    self.report.overflowed += overflowing(array, self.half)
                same = TensorProto()
                same.CopyFrom(value.constant)
                same.name = name
                yield same

    def _half(self, tensor: TensorProto, name: str, users: Sequence[str]) -> TensorProto:
        return to_half(
            tensor,
            name,
            users,
            half=self.half,
            mask=bool({tensor.name, name} & self.masks),
            report=self.report,
            overflows=self.overflows,
        )

    def _write_node(self, plan: NodePlan, nodes: list[onnx.NodeProto]) -> None:
        node = plan.node
        first = plan.outputs[0] if plan.outputs else None
        if first is not None and first.constant is not None:
            for tensor in self._constants(first):
                name = node.name if tensor.name == first.name else ""
                nodes.append(
                    helper.make_node("Constant", [], [tensor.name], name=name, value=tensor)
                )
            return
        for index, (value, wanted) in enumerate(plan.inputs):
            if value is not None:
                node.input[index] = value.named(wanted)
        for index, value in enumerate(plan.outputs):
            if value is not None:
                node.output[index] = value.named(value.stored)
        self._retype(plan)
        for body in plan.bodies:
            self.write(body, top=False)
        nodes.append(node)
        for value in plan.outputs:
            if value is not None:
                self._cast_after(value, nodes)

    def _retype(self, plan: NodePlan) -> None:
        """Make the attributes that name a result's type say what was planned."""
        node = plan.node
        first = plan.outputs[0] if plan.outputs else None
        if first is None or first.element != FLOAT or first.stored != self.half.element:
            return
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i == FLOAT:
                attribute.i = self.half.element
            elif attribute.name == "value" and node.op_type == "ConstantOfShape":
                attribute.t.CopyFrom(self._half(attribute.t, first.name, [node_label(node)]))
        names = {attribute.name for attribute in node.attribute}
        if node.op_type == "ConstantOfShape" and "value" not in names:
            zero = helper.make_tensor("value", self.half.element, [1], [0.0])
            node.attribute.append(helper.make_attribute("value", zero))

    def _cast_after(self, value: Value, nodes: list[onnx.NodeProto]) -> None:
        if value.element != FLOAT or not value.plain:
            return
        for element, name in value.names.items():
            if element != value.stored:
                source = value.named(value.stored)
                nodes.append(
                    helper.make_node(
                        "Cast", [source], [name], name=self._fresh(source, element), to=element
                    )
                )
                self.casts += 1


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (entry.name for entry in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield node.name
        yield from node.output
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_names(attribute.g)


def _check(model: onnx.ModelProto) -> None:
    annotate(model)
    check_type_agreement(model)
