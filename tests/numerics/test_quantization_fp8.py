"""What is of fp8 alone; the rules it shares with int8 are tested in ``test_quantization``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError
from orchestrator.numerics.calibration import Calibration
from orchestrator.numerics.pairs import weight_scale
from orchestrator.numerics.quantization import QuantizeReport, Selection, quantize
from orchestrator.numerics.quantized_types import FP8, INT8, QUANTIZED_TYPES
from orchestrator.numerics.tensorrt_qdq import check_tensorrt_qdq
from tests.numerics.onnx_graphs import Array, f32, graph, images, residual_net, run, snr_db

OP_TYPES = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add")


def quantized(
    model: onnx.ModelProto, data: Array, scratch: Path, *, method: str = "minmax", **what: Any
) -> tuple[onnx.ModelProto, QuantizeReport]:
    selection = Selection(**{"op_types": OP_TYPES, **what})
    how = Calibration(method=method, scratch=scratch)
    result, report = quantize(model, lambda: iter([{"x": data}]), selection, how, FP8)
    onnx.checker.check_model(result, full_check=True)
    check_tensorrt_qdq(result)
    return result, report


def dense(*, opset: int = 19, weight: Array | None = None) -> onnx.ModelProto:
    weight = f32(np.random.default_rng(0).normal(size=(16, 32))) if weight is None else weight
    shape = f"float[n,{weight.shape[0]}] x) => (float[n,{weight.shape[1]}] y"
    return graph(f"g ({shape}) {{ y = MatMul (x, w) }}", opset=opset, w=weight)


def rows(count: int = 8, width: int = 16, seed: int = 1) -> Array:
    return f32(np.random.default_rng(seed).normal(size=(count, width)))


@pytest.mark.parametrize("opset", [19, 21, 23, 25])
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_net_is_close_to_fp32(opset: int, per_channel: bool, tmp_path: Path) -> None:
    model = residual_net(opset=opset, width=16)
    result, report = quantized(model, images(64), tmp_path, per_channel=per_channel)
    assert report.quantized == {"Add": 1, "Conv": 1, "Gemm": 1, "MatMul": 1}
    assert sorted(report.without_kernel) == ["c1", "t3"]
    assert report.left["Conv"] == 1
    assert report.weights == 3
    x = images(32, seed=1)
    expected = run(model, {"x": x})[0]
    assert snr_db(expected, run(result, {"x": x}, optimize=False)[0]) > 20


def test_percentile_cuts_the_range(tmp_path: Path) -> None:
    model, data = dense(), rows(64)
    data[0, 0] = 100
    assert quantized(model, data, tmp_path)[1].thresholds["x"] == 100
    how = Calibration(method="percentile", percentile=99.0, scratch=tmp_path)
    what = Selection(op_types=["MatMul"])
    result, report = quantize(model, lambda: iter([{"x": data}]), what, how, FP8)
    assert report.thresholds["x"] < 5
    x = rows(seed=2)
    assert snr_db(run(model, {"x": x})[0], run(result, {"x": x}, optimize=False)[0]) > 25


@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_are_those_of_pytorch(per_channel: bool, tmp_path: Path) -> None:
    """scale = largest magnitude / 448; numbers are divided by it and rounded to nearest E4M3."""
    model = dense()
    weight = numpy_helper.to_array(model.graph.initializer[0])
    result, _ = quantized(model, rows(), tmp_path, per_channel=per_channel)
    result.graph.output.append(
        helper.make_tensor_value_info("w_dequantized", TensorProto.FLOAT, list(weight.shape))
    )
    scale = weight_scale(weight, 1 if per_channel else None, FP8)
    largest = np.abs(weight).max(axis=0) if per_channel else np.abs(weight).max()
    np.testing.assert_array_equal(scale, largest.astype(np.float32) / np.float32(448))
    codes = torch.from_numpy(weight / scale).to(torch.float8_e4m3fn).float().numpy()
    assert np.abs(codes).max() == 448
    found = run(result, {"x": rows()}, optimize=False)[1]
    np.testing.assert_array_equal(found, codes * scale)


def test_zero_points_say_the_type_and_the_file_may_hold_it(tmp_path: Path) -> None:
    result, _ = quantized(dense(), rows(), tmp_path)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for name in ("x", "w"):
        zero, scale = tensors[f"{name}_zero_point"], tensors[f"{name}_scale"]
        assert zero.data_type == TensorProto.FLOAT8E4M3FN
        assert list(zero.dims) == list(scale.dims)
        assert not numpy_helper.to_array(zero).astype(np.float32).any()
    assert list(tensors["w_scale"].dims) == [32]
    assert list(tensors["x_scale"].dims) == [], "activations have one scale"
    assert result.ir_version == 9


def test_numbers_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    """E4M3 has no infinity: without saturation they would be NaN."""
    result, report = quantized(dense(weight=f32(np.eye(16))), rows(), tmp_path)
    limit = report.thresholds["x"]
    x = np.full((1, 16), 10 * limit, np.float32)
    found = run(result, {"x": x}, optimize=False)[0]
    np.testing.assert_allclose(found, np.full_like(found, limit), rtol=1e-6)


@pytest.mark.parametrize("opset", [13, 18])
def test_an_older_opset_is_refused_and_named(opset: int, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=f"fp8 needs opset 19 or newer.*{opset}") as caught:
        quantized(dense(opset=opset), rows(), tmp_path)
    assert caught.value.where == "exporter.opset"
    assert "exporter.opset=19" in caught.value.hint


def test_entropy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="evenly spaced numbers of int8") as caught:
        quantized(dense(), rows(), tmp_path, method="entropy")
    assert caught.value.where == "calibration.method"
    assert "calibration=minmax" in caught.value.hint


@pytest.mark.parametrize(
    ("weight", "groups", "reason"),
    [
        ((16, 16, 3, 3), 1, ""),
        ((32, 16, 3, 3), 1, ""),
        ((32, 16, 1, 1), 2, ""),
        ((32, 3, 3, 3), 1, "multiples of 16 channels"),
        ((24, 16, 3, 3), 1, "multiples of 16 channels"),
        ((32, 1, 3, 3), 32, "multiples of 16 channels"),
        ((16, 16, 7, 7), 1, "at most 32 positions, this 49"),
    ],
)
def test_convolutions_that_tensorrt_lacks_stay_in_fp32(
    weight: tuple[int, ...], groups: int, reason: str, tmp_path: Path
) -> None:
    channels = weight[1] * groups
    model = graph(
        f"""g (float[2,{channels},8,8] x) => (float[n,k,h,v] y, float[2,2] z) {{
            [conv] y = Conv <group = {groups}> (x, w)  r = Reshape (x, s)
            f = Slice (r, zero, two)  z = MatMul (f, d)
        }}""",
        opset=19,
        w=f32(np.random.default_rng(0).normal(size=weight)),
        s=np.array([2, -1]),
        zero=np.array([0, 0]),
        two=np.array([2, 2]),
        d=f32(np.eye(2)),
    )
    data = f32(np.random.default_rng(1).normal(size=(2, channels, 8, 8)))
    _, report = quantized(model, data, tmp_path)
    assert ("Conv" in report.quantized) == (not reason)
    assert reason in report.without_kernel.get("conv", "")
    how, what = Calibration(scratch=tmp_path), Selection(op_types=OP_TYPES)
    _, int8 = quantize(model, lambda: iter([{"x": data}]), what, how, INT8)
    assert int8.quantized["Conv"] == 1
    assert int8.without_kernel == {}


def test_a_model_without_anything_to_quantize(tmp_path: Path) -> None:
    model = graph(
        "g (float[1,3,4,4] x) => (float[1,8,4,4] y) { [stem] y = Conv (x, w) }",
        opset=19,
        w=f32(np.ones((8, 3, 1, 1))),
    )
    with pytest.raises(StageError, match=r"none has a kernel; 'stem': .*\[8, 3, 1, 1\]") as caught:
        quantized(model, np.ones((1, 3, 4, 4), np.float32), tmp_path)
    assert "precision=int8" in caught.value.hint
    transposed = graph(
        "g (float[1,3,4,4] x) => (float[1,8,4,4] y) { [stem] y = ConvTranspose (x, w) }",
        opset=19,
        w=f32(np.ones((3, 8, 1, 1))),
    )
    with pytest.raises(StageError, match=r"'stem': TensorRT has fp8 for Add, Conv, Gemm, MatMul"):
        quantized(transposed, np.ones((1, 3, 4, 4), np.float32), tmp_path)


def test_weight_of_nan_names_the_type(tmp_path: Path) -> None:
    weight = f32(np.eye(16))
    weight[3, 3] = np.nan
    with pytest.raises(StageError, match="'w' holds NaN or infinity, which fp8 cannot"):
        quantized(dense(weight=weight), rows(), tmp_path)


def test_the_constants_of_the_types() -> None:
    assert FP8.largest == torch.finfo(torch.float8_e4m3fn).max
    assert INT8.largest == torch.iinfo(torch.int8).max
    for kind in QUANTIZED_TYPES.values():
        name = f"tensor({TensorProto.DataType.Name(kind.element).lower()})"
        for opset, takes in ((kind.least_opset - 1, False), (kind.least_opset, True)):
            schema = onnx.defs.get_schema("QuantizeLinear", opset, "")
            has = name in schema.outputs[0].types and "axis" in schema.attributes
            assert has == takes, (kind.name, opset)


def _breakage(name: str, model: onnx.ModelProto) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if name == "E5M2":
        zero = helper.make_tensor("x_zero_point", TensorProto.FLOAT8E5M2, [], bytes(1), raw=True)
        tensors["x_zero_point"].CopyFrom(zero)
    elif name == "not zero":
        zero = helper.make_tensor(
            "x_zero_point", TensorProto.FLOAT8E4M3FN, [], bytes([0x38]), raw=True
        )
        tensors["x_zero_point"].CopyFrom(zero)
    elif name == "int8 weight":
        weight = numpy_helper.from_array(np.zeros((16, 32), np.int8), "w_quantized")
        model.graph.initializer.append(weight)
        kept = [node for node in model.graph.node if node.name != "w_QuantizeLinear"]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    elif name == "opset":
        model.opset_import[0].version = 18


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("E5M2", r"float8_e5m2, only int8 and fp8 \(E4M3\)"),
        ("not zero", "zero point is not 0"),
        ("int8 weight", "dequantizes int8"),
        ("opset", "fp8 with an axis needs opset 19, this is 18"),
    ],
)
def test_checker_names_the_broken_rule(name: str, text: str, tmp_path: Path) -> None:
    result, _ = quantized(dense(), rows(), tmp_path)
    _breakage(name, result)
    with pytest.raises(StageError, match=text):
        check_tensorrt_qdq(result)


def test_checker_accepts_weights_that_are_quantized_already(tmp_path: Path) -> None:
    result, _ = quantized(dense(), rows(), tmp_path)
    codes = helper.make_tensor(
        "w_quantized", TensorProto.FLOAT8E4M3FN, [16, 32], bytes(16 * 32), raw=True
    )
    result.graph.initializer.append(codes)
    kept = [node for node in result.graph.node if node.name != "w_QuantizeLinear"]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    check_tensorrt_qdq(result)
