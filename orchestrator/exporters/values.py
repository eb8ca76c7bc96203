"""Renames values of a graph without colliding with the names that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.graphs.files import subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def rename_values(model: ModelProto, names: Mapping[str, str]) -> None:
    """Rename the values of the main graph of *model* from the keys to the values of *names*.

    A value that bears one of the new names already gets another one. Bodies of control flow follow.
    """
    taken = _all_names(model.graph) | set(names.values())
    renamed = dict(names)
    for new in names.values():
        if new in renamed or new not in _all_names(model.graph):
            continue
        number = 1
        while f"{new}_{number}" in taken:
            number += 1
        renamed[new] = f"{new}_{number}"
        taken.add(renamed[new])
    _rename(model.graph, renamed)


def _all_names(graph: GraphProto) -> set[str]:
    found = {value.name for value in (*graph.input, *graph.output)}
    found |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found.update(node.input, node.output)
        for inner in subgraphs(node):
            found |= _all_names(inner)
    return found


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for field in (node.input, node.output):
            for number, name in enumerate(field):
                if name in names:
                    field[number] = names[name]
        for inner in subgraphs(node):
            _rename(inner, names)
