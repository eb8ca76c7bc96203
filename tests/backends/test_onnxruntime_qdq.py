from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from orchestrator.backends.onnxruntime.qdq import (
    HIDES_INTEGER,
    is_quantized,
    quantize_conv_results,
)
from orchestrator.numerics.calibration import Calibration
from orchestrator.numerics.quantization import Selection, quantize
from orchestrator.numerics.tensorrt_qdq import check_tensorrt_qdq
from tests.numerics.onnx_graphs import Array, f32, graph, run


def optimized(model: onnx.ModelProto, path: Path, *disabled: str) -> list[str]:
    """Return the operator types of the graph that ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, disabled_optimizers=list(disabled))
    return [node.op_type for node in onnx.load(path).graph.node]


def quantized(model: onnx.ModelProto, x: Array, scratch: Path) -> onnx.ModelProto:
    what = Selection(op_types=["Conv", "MatMul", "Add"])
    return quantize(model, lambda: iter([{"x": x}]), what, Calibration(scratch=scratch))[0]


def conv_net(between: str) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    return graph(
        f"""g (float[2,3,8,8] x) => (float[n,c,h,w] y) {{
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            {between}
            y = Conv (r, w2)
        }}""",
        w1=f32(rng.normal(size=(8, 3, 3, 3)) / 5),
        b1=f32(rng.normal(size=8) / 5),
        w2=f32(rng.normal(size=(8, 8, 3, 3)) / 8),
    )


@pytest.mark.parametrize(
    "between",
    [
        "r = Relu (a)",
        "p = Relu (a)  r = MaxPool <kernel_shape = [2,2]> (p)",
    ],
)
def test_conv_runs_in_int8_with_the_same_result(between: str, tmp_path: Path) -> None:
    x = f32(np.random.default_rng(1).normal(size=(2, 3, 8, 8)))
    model = quantized(conv_net(between), x, tmp_path)
    assert is_quantized(model)
    assert "QLinearConv" not in optimized(model, tmp_path / "before.onnx")
    feed = {"x": 1.5 * x}  # Beyond the calibrated range as well.
    before = run(model, feed, optimize=False)[0]
    assert quantize_conv_results(model) == 1
    check_tensorrt_qdq(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model, feed, optimize=False)[0], before)
    assert optimized(model, tmp_path / "after.onnx").count("QLinearConv") == 1


@pytest.mark.parametrize(
    "between", ["r = Sigmoid (a)", "s = Relu (a)  t = Tanh (a)  r = Mul (s, t)"]
)
def test_nothing_is_inserted_where_it_would_change_the_result(between: str, tmp_path: Path) -> None:
    x = f32(np.random.default_rng(1).normal(size=(2, 3, 8, 8)))
    model = quantized(conv_net(between), x, tmp_path)
    assert quantize_conv_results(model) == 0


def test_matmul_runs_in_int8_when_it_is_not_hidden(tmp_path: Path) -> None:
    model = graph(
        "g (float[4,16] x) => (float[4,16] y) { a = MatMul (x, w)  y = Add (a, b) }",
        w=f32(np.cos(np.arange(256)).reshape(16, 16)),
        b=f32(np.arange(16)),
    )
    model = quantized(model, f32(np.sin(np.arange(64)).reshape(4, 16)), tmp_path)
    assert "MatMulIntegerToFloat" not in optimized(model, tmp_path / "before.onnx")
    assert "MatMulIntegerToFloat" in optimized(model, tmp_path / "after.onnx", *HIDES_INTEGER)
