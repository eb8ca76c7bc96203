"""Which nodes of an ONNX graph a configuration means by ``keep_nodes`` and ``keep_op_types``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import StageError, nearest

if TYPE_CHECKING:
    import onnx


def node_label(node: onnx.NodeProto) -> str:
    """Return the name a user gives *node*: its name, or its first output when it has none."""
    return node.name or next((name for name in node.output if name), node.op_type)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of *graph* and of the If, Loop and Scan bodies in it, in order."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)
            for body in attribute.graphs:
                yield from all_nodes(body)


def check_selection(
    graph: onnx.GraphProto, keep_nodes: Sequence[str], keep_op_types: Sequence[str]
) -> None:
    """Check that every kept node and operator type exists in *graph*.

    Raises:
        StageError: when a name matches nothing; the hint holds the nearest existing name.
    """
    nodes = list(all_nodes(graph))
    labels = {node_label(node): None for node in nodes}
    types = {node.op_type: None for node in nodes}
    for key, names, known in (
        ("keep_nodes", keep_nodes, labels),
        ("keep_op_types", keep_op_types, types),
    ):
        for name in names:
            if name not in known:
                what = "node" if key == "keep_nodes" else "operator type"
                raise StageError(
                    f"the graph has no {what} '{name}'",
                    where=f"precision.{key}",
                    hint=nearest(name, known) or f"it has {_some(sorted(known))}",
                )


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
