"""What worker.py reads of an ONNX file without the onnx package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.tensorrt import worker
from orchestrator.backends.tensorrt.worker import OnnxNode

NODES = [OnnxNode("/fc/MatMul", "MatMul"), OnnxNode("", "Relu"), OnnxNode("/fc/Add", "Add")]


def save(path: Path, *, external: bool = False) -> str:
    branch = helper.make_graph(
        [helper.make_node("Not", ["c"], ["d"], name="inner")], "branch", [], []
    )
    nodes = [
        helper.make_node(
            node.op_type, ["x", "w"], ["y"], name=node.name or None, doc_string="é" * 99
        )
        for node in NODES
    ]
    nodes[2].attribute.append(helper.make_attribute("then_branch", branch))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((300, 300), np.float32), "w")],
    )
    model = helper.make_model(graph, producer_name="graph")
    onnx.save(model, path, save_as_external_data=external, location="w.bin")
    return str(path)


@pytest.mark.parametrize("external", [False, True])
def test_nodes_and_weights_are_read_in_order(tmp_path: Path, external: bool) -> None:
    graph = worker.read_onnx(save(tmp_path / "m.onnx", external=external))
    assert list(graph.nodes) == NODES, "nodes of subgraphs are not among them"
    assert list(graph.initializers) == ["w"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x05abc", b"not onnx at all"])
def test_what_is_no_onnx_file_has_no_nodes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for found in (worker.read_onnx(str(path)), worker.read_onnx(str(tmp_path / "none.onnx"))):
        assert [*found.nodes, *found.initializers] == []


def test_layers_to_keep_are_nodes_of_the_model() -> None:
    assert worker.layers_to_keep((), (), NODES) == set()
    assert worker.layers_to_keep(("/fc/Add",), ("MatMul",), NODES) == {"/fc/Add", "/fc/MatMul"}
    with pytest.raises(worker.Failure) as caught:
        worker.layers_to_keep(("/fc/Matmul",), ("Conv",), NODES)
    assert caught.value.message == (
        "to be kept in fp32, but the model has no node '/fc/Matmul'. did you mean '/fc/MatMul'?; "
        "no operator Conv"
    )


def test_layers_know_their_nodes_by_metadata_or_name() -> None:
    assert worker.made_from("(Unnamed Layer* 3) [Shuffle]", "[ONNX Layer: /fc/Add]") == {"/fc/Add"}
    both = "[ONNX Layer: a]\x1e[ONNX Layer: b]"
    assert worker.made_from("a + b", both) == {"a", "b"}
    assert worker.made_from("/fc/Add", "") == {"/fc/Add"}
