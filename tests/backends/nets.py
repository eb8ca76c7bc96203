"""Small ONNX trees and sample batches that the tests of the runtime side share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.numerics.batches import Batch, write_batches

Array = np.ndarray[Any, Any]
TARGET = {"backend": "onnxruntime", "device": "cpu", "optimization_level": "all"}
AS_IT_STANDS = {**TARGET, "optimization_level": "none"}


def save(model: onnx.ModelProto, tree: Path) -> Path:
    onnx.checker.check_model(model, full_check=True)
    tree.mkdir(parents=True)
    onnx.save(model, tree / "model.onnx")
    return tree


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv_net(half: bool = False) -> onnx.ModelProto:
    """Input ``x`` float32 [n, 16, 8, 8] → ``y`` float32 [n, 10]: Conv, Relu, Conv, pool, Gemm."""
    rng = np.random.default_rng(0)
    dtype = np.float16 if half else np.float32
    weights = {
        "w1": rng.standard_normal((32, 16, 3, 3)) * 0.1,
        "b1": rng.standard_normal(32),
        "w2": rng.standard_normal((32, 32, 3, 3)) * 0.1,
        "w3": rng.standard_normal((10, 32)),
        "b3": rng.standard_normal(10),
    }
    nodes = [
        helper.make_node("Conv", ["xin", "w1", "b1"], ["c1"], name="conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c2"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["yout"], name="gemm", transB=1),
    ]
    to_half, to_float = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes.insert(0, helper.make_node("Cast", ["x"], ["xin"], to=to_half if half else to_float))
    nodes.append(helper.make_node("Cast", ["yout"], ["y"], to=to_float))
    return _model(
        nodes,
        [helper.make_tensor_value_info("x", to_float, ["n", 16, 8, 8])],
        [helper.make_tensor_value_info("y", to_float, ["n", 10])],
        {name: array.astype(dtype) for name, array in weights.items()},
    )


def matmul_net(size: int = 8) -> onnx.ModelProto:
    """``x`` float32 [n, size] → ``y`` = relu(x w) float32 [n, size]."""
    weight = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        {"w": weight},
    )


def two_layer_net(width: int) -> onnx.ModelProto:
    """``x`` float32 [n, 16] → ``y`` float32 [n, 4]: Gemm to [n, width], Relu, MatMul."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (16, width), "b1": (width,), "w2": (width, 4)}
    return _model(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "w2"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in shapes.items()},
        opset=18,
    )


def qdq_matmul_net(stored_as_int8: bool = True) -> onnx.ModelProto:
    """``matmul_net`` with symmetric int8 Q/DQ on both operands, as the int8 lowering writes it.

    With *stored_as_int8* false, the weight is kept in fp32 in front of a Q/DQ pair.
    """
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    scale = np.float32(np.abs(weight).max() / 127)
    weights: dict[str, Array] = {
        "xs": np.array(0.05, np.float32),
        "xz": np.array(0, np.int8),
        "ws": np.array(scale, np.float32),
        "wz": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], name="xq"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], name="xd"),
    ]
    if stored_as_int8:
        weights["wq"] = np.round(weight / scale).astype(np.int8)
    else:
        weights["w"] = weight
        nodes.append(helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], name="wq"))
    nodes += [
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="wd"),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="matmul"),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        weights,
    )


def one_node_net(op: str, dtype: int, *, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    """One node ``broken`` of *op* on ``x`` [n, 4] (twice), giving ``y``."""
    return _model(
        [helper.make_node(op, ["x", "x"], ["y"], name="broken", **attributes)],
        [helper.make_tensor_value_info("x", dtype, ["n", 4])],
        [helper.make_tensor_value_info("y", dtype, ["n", 4])],
        {},
        opset,
    )


def bad_reshape_net() -> onnx.ModelProto:
    """``x`` [n, 4] reshaped to [2, 4] by node ``reshape``: fails for any other n."""
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        {"shape": np.array([2, 4], np.int64)},
    )


def batch(number: int, items: int, point: str = "opt") -> Batch:
    return Batch(
        file=f"{number:03d}.npz", point=point, dims={"n": items}, offset=number, items=items
    )


def samples(
    root: Path,
    *shape: int,
    name: str = "x",
    sizes: tuple[int, ...] = (2, 3),
    dtype: Any = np.float32,
) -> Path:
    """Write batches of *sizes* items of normal values of *shape*; the first is the min point."""
    rng = np.random.default_rng(3)
    root.mkdir(parents=True, exist_ok=True)
    write_batches(
        root,
        [
            (
                batch(number, items, "opt" if number else "min"),
                {name: rng.standard_normal((items, *shape)).astype(dtype)},
            )
            for number, items in enumerate(sizes)
        ],
    )
    return root


def outputs(
    root: Path, arrays: Sequence[Mapping[str, Array]], points: list[str] | None = None
) -> Path:
    """Write *arrays* as batches whose items are axis 0 of the first array."""
    root.mkdir(parents=True, exist_ok=True)
    write_batches(
        root,
        [
            (
                batch(
                    number,
                    len(next(iter(each.values()))) if next(iter(each.values())).ndim else 1,
                    points[number] if points else "opt",
                ),
                each,
            )
            for number, each in enumerate(arrays)
        ],
    )
    return root
