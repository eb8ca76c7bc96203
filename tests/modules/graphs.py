"""Small ONNX graphs, and how to run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from orchestrator.graphs import files as onnx_files

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[NodeProto],
    initializers: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("x", FLOAT, ("batch", 4)),),
    outputs: Sequence[tuple[str, int, Sequence[int | str]]] = (("y", FLOAT, ("batch", 4)),),
    opset: int = 18,
) -> ModelProto:
    """Return a model of *nodes* with typed *inputs* and *outputs*."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(a, name) for name, a in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def chain(opset: int = 18) -> ModelProto:
    """Return y = relu(x * scale) + shift, with two initializers."""
    return model(
        [
            helper.make_node("Mul", ["x", "scale"], ["a"], name="mul"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Add", ["b", "shift"], ["y"], name="add"),
        ],
        {
            "shift": np.arange(4, dtype=np.float32),
            "scale": np.linspace(-1, 2, 4, dtype=np.float32),
        },
        opset=opset,
    )


def large(*, columns: int = 4, mebibytes: int = 18) -> ModelProto:
    """Return y = x @ (a, b, c) summed, where a == c and the weights exceed the inline limit."""
    rows = mebibytes * 2**20 // (3 * 4 * columns)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((columns, rows)).astype(np.float32) for _ in range(2))
    return model(
        [
            helper.make_node("MatMul", ["x", "a"], ["xa"]),
            helper.make_node("MatMul", ["x", "b"], ["xb"]),
            helper.make_node("MatMul", ["x", "c"], ["xc"]),
            helper.make_node("Sum", ["xa", "xb", "xc"], ["s"]),
            helper.make_node("Add", ["s", "one"], ["y"]),
        ],
        {"a": a, "b": b, "c": a.copy(), "one": np.ones(1, np.float32)},
        outputs=[("y", FLOAT, ("batch", rows))],
    )


def tree(root: Path, proto: ModelProto) -> Path:
    """Save a copy of *proto* as a tree at *root*."""
    root.mkdir(parents=True)
    copied = ModelProto()
    copied.CopyFrom(proto)
    onnx_files.save(copied, root)
    return root


def run(root: Path, **feeds: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Run the model in the tree *root* in ONNX Runtime without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        onnx_files.model_path(root), options, providers=["CPUExecutionProvider"]
    )
    results: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return results


def parsed(text: str) -> ModelProto:
    """Return the model written in ONNX's text syntax."""
    return onnx.parser.parse_model(text)
