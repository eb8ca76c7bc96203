"""A sweep that needs no torch: an ONNX file, ONNX Runtime, no benchmark; a run takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Four variants with 17 actions, of which two have equal inputs (the judges of fp32).
WORDS = (
    "-m",
    "-q",
    "model=net",
    "precision=fp32,fp16",
    "compare=default,embedding",
    "simplifier=none",
    "benchmark=none",
)
_MODEL = """\
name: net
onnx: net.onnx
inputs: {x: {dtype: float32, shape: [batch, 16]}}
outputs: [y]
dims: {batch: {min: 1, opt: 4, max: 8}}
samples: {kind: generator}
"""


def make_project(directory: Path) -> None:
    """Write the model and its configuration below *directory*."""
    (directory / "conf" / "model").mkdir(parents=True)
    (directory / "conf" / "model" / "net.yaml").write_text(_MODEL)
    onnx.save_model(_net(), directory / "net.onnx")


def _net() -> onnx.ModelProto:
    """Return two layers, x [batch, 16] float32 -> y [batch, 4] float32, with 0.3 MB of weights."""
    numbers = np.random.default_rng(0)
    shapes = {"w1": (16, 4096), "w2": (4096, 4)}
    weights = [
        numpy_helper.from_array(numbers.normal(size=shape).astype(np.float32) / 16, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
