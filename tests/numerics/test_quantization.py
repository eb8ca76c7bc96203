from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader, HistogramCollector

from orchestrator.errors import StageError
from orchestrator.numerics.calibration import (
    LEVELS,
    Calibration,
    entropy_threshold,
    percentile_threshold,
)
from orchestrator.numerics.pairs import weight_scale
from orchestrator.numerics.quantization import QuantizeReport, Selection, quantize
from orchestrator.numerics.tensorrt_qdq import check_tensorrt_qdq
from tests.numerics.onnx_graphs import (
    Array,
    attribute,
    f32,
    graph,
    images,
    residual_net,
    run,
    snr_db,
)

OP_TYPES = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Add")


def batches_of(
    array: Array, size: int = 8, name: str = "x"
) -> Callable[[], Iterator[dict[str, Array]]]:
    return lambda: ({name: array[i : i + size]} for i in range(0, len(array), size))


def quantized(
    model: onnx.ModelProto, data: Array, scratch: Path, *, method: str = "minmax", **what: Any
) -> tuple[onnx.ModelProto, QuantizeReport]:
    what.setdefault("op_types", OP_TYPES)
    how = Calibration(method=method, scratch=scratch)
    result, report = quantize(model, batches_of(data), Selection(**what), how)
    onnx.checker.check_model(result, full_check=True)
    check_tensorrt_qdq(result)
    return result, report


def scales(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the scale of every quantized tensor."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        node.input[0]: constants[node.input[1]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_quantized_net_is_close_to_fp32(method: str, per_channel: bool, tmp_path: Path) -> None:
    model = residual_net()
    result, report = quantized(model, images(64), tmp_path, method=method, per_channel=per_channel)
    assert report.quantized == {"Add": 1, "Conv": 2, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
    assert report.left == {"Add": 1, "Flatten": 1, "MaxPool": 1, "Relu": 2, "Tanh": 1}
    assert report.weights == 5
    x = images(32, seed=1)
    assert snr_db(run(model, {"x": x})[0], run(result, {"x": x}, optimize=False)[0]) > 20
    assert {s.size for name, s in scales(result).items() if name == "w1"} == {
        8 if per_channel else 1
    }


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterator[Mapping[str, Array]]) -> None:
        self.batches = batches

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self.batches, None)


def test_same_pairs_as_the_tool_with_tensorrt_options(tmp_path: Path) -> None:
    """ONNX Runtime's tool with the options for TensorRT quantizes the same tensors likewise."""
    model, data = residual_net(), images(64)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "in.onnx")
    quantize_static(
        tmp_path / "in.onnx",
        tmp_path / "out.onnx",
        _Reader(batches_of(data)()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=list(OP_TYPES),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "QDQDisableWeightAdjustForInt32Bias": True,
            "OpTypesToExcludeOutputQuantization": sorted({n.op_type for n in model.graph.node}),
            "QDQOpTypePerChannelSupportToAxis": {"Conv": 0, "ConvTranspose": 1, "MatMul": 1},
        },
    )
    theirs = scales(onnx.load(tmp_path / "out.onnx"))
    result, _ = quantized(model, data, tmp_path)
    ours = scales(result)
    bias_addition = {"m4", "bm"}
    assert set(ours) == set(theirs) - bias_addition
    for name, scale in ours.items():
        # The tool divides activations by 127.5 and weights by 127; TensorRT divides by 127.
        np.testing.assert_allclose(scale, theirs[name], rtol=5e-3, err_msg=name)


@pytest.mark.parametrize(
    ("text", "shape", "axis", "result"),
    [
        ("y = MatMul (x, w)", (6, 5), 1, "4,5"),
        ("y = MatMul (x, w)", (1, 6, 5), None, "1,4,5"),
        ("y = MatMul (w, x)", (6, 4), None, "6,6"),
        ("y = Gemm (x, w)", (6, 5), 1, "4,5"),
        ("y = Gemm <transB = 1> (x, w)", (5, 6), 0, "4,5"),
        ("c = Reshape (x, s)  y = Conv (c, w)", (5, 6, 1), 0, "4,5,1"),
        ("c = Reshape (x, s)  y = ConvTranspose (c, w)", (6, 5, 1), 1, "4,5,1"),
        ("c = Reshape (x, s)  y = ConvTranspose <group = 2> (c, w)", (6, 5, 1), None, "4,10,1"),
    ],
)
def test_axis_of_output_channels(
    text: str, shape: tuple[int, ...], axis: int | None, result: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    weight, data = f32(rng.normal(size=shape)), f32(rng.normal(size=(4, 6)))
    body = f"g (float[4,6] x) => (float[{result}] y) {{ {text} }}"
    model = graph(body, w=weight, s=np.array([4, 6, 1]))
    found, _ = quantized(model, data, tmp_path)
    pair = [node for node in found.graph.node if node.input[0].startswith("w")]
    assert [attribute(node, "axis") for node in pair[:2]] == [axis, axis]
    assert scales(found)["w"].shape == (() if axis is None else (shape[axis],))
    assert snr_db(run(model, {"x": data})[0], run(found, {"x": data}, optimize=False)[0]) > 30


def test_kept_nodes_read_unquantized_tensors(tmp_path: Path) -> None:
    model = graph(
        """g (float[4,6] x) => (float[4,6] y) {
            [first] a = MatMul (x, w)  [second] b = MatMul (x, w)  y = Sub (a, b)
        }""",
        w=f32(np.eye(6)),
    )
    data = f32(np.random.default_rng(0).normal(size=(4, 6)))
    result, report = quantized(model, data, tmp_path, keep_nodes=["second"])
    assert report.quantized == {"MatMul": 1}
    assert report.left == {"MatMul": 1, "Sub": 1}
    kept = next(node for node in result.graph.node if node.name == "second")
    assert list(kept.input) == ["x", "w"]
    both, _ = quantized(model, data, tmp_path)
    assert sum(node.op_type == "QuantizeLinear" for node in both.graph.node) == 2, (
        "pairs are shared"
    )


def test_constant_nodes_hold_weights_too(tmp_path: Path) -> None:
    model = graph(
        """g (float[1,2] x) => (float[1,2] y) {
            w = Constant <value = float[2,2] {1.0, 0.5, -0.25, 2.0}> ()  y = MatMul (x, w)
        }"""
    )
    result, report = quantized(model, f32([[1, -2]]), tmp_path)
    assert report.weights == 1
    np.testing.assert_allclose(scales(result)["w"], f32([1 / 127, 2 / 127]))


def test_embedding_and_integers_are_not_quantized(tmp_path: Path) -> None:
    model = graph(
        """g (float[2,2] x) => (float[2,2] y, int64[2] z) {
            s = Shape (x)  z = Add (s, s)  y = MatMul (x, x)
        }"""
    )
    _, report = quantized(model, f32([[1, -2], [3, 4]]), tmp_path)
    assert report.quantized == {"MatMul": 1}
    assert report.weights == 0


def test_mask_is_not_quantized(tmp_path: Path) -> None:
    """Calibration saw no padding; a quantized mask would be clipped to nothing."""
    model = graph(
        """g (float[2,3] x, float[2,3] mask) => (float[2,3] y) {
            q = MatMul (x, w)  k = MatMul (x, w)  scores = Add (q, k)  s = Add (scores, mask)
            p = Softmax <axis = -1> (s)  y = Add (p, x)
        }""",
        w=f32(np.eye(3)),
    )
    x = f32([[1, 2, 3], [3, 2, 1]])
    seen = {"x": x, "mask": np.zeros_like(x)}
    what, how = Selection(op_types=OP_TYPES), Calibration(scratch=tmp_path)
    result, report = quantize(model, lambda: iter([seen]), what, how)
    assert report.quantized == {"Add": 1, "MatMul": 2}
    padded = {"x": x, "mask": f32([[0, 0, np.finfo(np.float32).min]] * 2)}
    expected, found = run(model, padded)[0], run(result, padded)[0]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_silent_channels_and_tensors_get_a_finite_scale(tmp_path: Path) -> None:
    weight = f32([[0, 1], [0, -1e-44]])
    assert (weight_scale(weight, 1) > 0).all()
    assert float(weight_scale(f32([1e-44]), None)) >= np.finfo(np.float32).tiny
    model = graph("g (float[1,2] x) => (float[1,2] y) { y = MatMul (x, w) }", w=weight)
    result, _ = quantized(model, np.zeros((1, 2), np.float32), tmp_path)
    assert run(result, {"x": f32([[0, 0]])}, optimize=False)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("what", "where", "text"),
    [
        ({"keep_nodes": ["c1"], "op_types": ["Conv"]}, "", ""),
        ({"keep_nodes": ["cc1"]}, "precision.keep_nodes", "did you mean 'c1'?"),
        ({"keep_op_types": ["Con"]}, "precision.keep_op_types", "did you mean 'Conv'?"),
        ({"op_types": ["Convv"]}, "precision.op_types", "did you mean 'Conv'?"),
        ({"op_types": ["Relu", "LSTM"], "keep_op_types": ["Relu"]}, "precision.op_types", "add"),
        ({"op_types": []}, "precision.op_types", "add operator types"),
    ],
)
def test_selections(what: dict[str, list[str]], where: str, text: str, tmp_path: Path) -> None:
    if not where:
        _, report = quantized(residual_net(), images(8), tmp_path, **dict[str, Any](what))
        assert report.quantized == {"Conv": 1}
        return
    with pytest.raises(StageError) as caught:
        quantized(residual_net(), images(8), tmp_path, **dict[str, Any](what))
    assert caught.value.where == where
    assert text in caught.value.hint


def test_opset_below_13_is_refused(tmp_path: Path) -> None:
    model = graph(
        "g (float[1,2] x) => (float[1,2] y) { y = MatMul (x, x2) }",
        opset=12,
        x2=f32([[1, 2], [3, 4]]),
    )
    with pytest.raises(StageError, match="opset 13") as caught:
        quantized(model, f32([[1, 2]]), tmp_path)
    assert "exporter.opset" in caught.value.hint


def test_calibration_that_fails(tmp_path: Path) -> None:
    model, what = residual_net(), Selection(op_types=OP_TYPES)
    how = Calibration(scratch=tmp_path)
    for data, text in (
        ([], "no calibration batch"),
        ([{"image": images(1)}], "no input 'x'"),
        ([{"x": images(1)[:, :, :4]}], "cannot run calibration batch 0"),
        ([{"x": images(1) * np.float32(np.nan)}], "'x' holds NaN"),
    ):
        with pytest.raises(StageError, match=text):
            quantize(model, lambda data=data: iter(data), what, how)  # type: ignore[misc]
    few = Calibration(method="entropy", bins=64, scratch=tmp_path)
    with pytest.raises(StageError, match="at least 128 bins"):
        quantize(model, batches_of(images(4)), what, few)


def test_order_of_batches_does_not_matter(tmp_path: Path) -> None:
    """Bins are fixed by a first pass, so a quiet first batch does not spoil the histogram."""
    model, data = residual_net(), images(32)
    data[:8] *= 1e-3
    for method in ("minmax", "entropy", "percentile"):
        results = [
            quantized(model, order, tmp_path, method=method)[0].SerializeToString(
                deterministic=True
            )
            for order in (data, data[::-1].copy())
        ]
        assert results[0] == results[1]


def test_batches_of_different_shapes(tmp_path: Path) -> None:
    model = graph("g (float[n,2] x) => (float[n,2] y) { y = MatMul (x, w) }", w=f32(np.eye(2)))
    data = [{"x": f32([[1, 2]])}, {"x": f32([[3, -5], [1, 1]])}]
    for method in ("minmax", "entropy"):
        how = Calibration(method=method, scratch=tmp_path)
        _, report = quantize(model, lambda: iter(data), Selection(op_types=OP_TYPES), how)
        assert report.thresholds == {"x": 5.0}


def _kl_by_hand(counts: list[int], end: int) -> float:
    """Divergence of one candidate, spelt out bin by bin as in the slides."""
    reference = [float(c) for c in counts[:end]]
    reference[-1] += sum(counts[end:])
    candidate = [0.0] * end
    for level in range(LEVELS):
        low, high = level * end // LEVELS, (level + 1) * end // LEVELS
        used = [i for i in range(low, high) if reference[i] > 0]
        for i in used:
            candidate[i] = sum(counts[low:high]) / len(used)
    total = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0:
            if q == 0:
                return float("inf")
            total += (p * math.log(p / q) - p + q) / sum(counts)
    return total


@given(st.lists(st.integers(0, 50), min_size=140, max_size=200), st.floats(0.1, 10))
def test_entropy_threshold_is_the_least_divergence(counts: list[int], limit: float) -> None:
    counts = [0, *counts[1:-1], max(counts[-1], 1)]
    found = entropy_threshold(np.array(counts), limit)
    divergences = {end: _kl_by_hand(counts, end) for end in range(LEVELS, len(counts) + 1)}
    chosen = round(found / limit * len(counts))
    assert divergences[chosen] <= min(divergences.values()) + 1e-9


def test_entropy_agrees_in_kind_with_onnxruntime() -> None:
    """Both cut a long thin tail, both keep the range of a uniform tensor."""
    rng = np.random.default_rng(0)
    tailed = np.concatenate([rng.normal(0, 1, 100_000), [40.0, -40.0]])
    for values, cut in ((tailed, True), (rng.uniform(-1, 1, 100_000), False)):
        limit = float(np.abs(values).max())
        collector = HistogramCollector("entropy", True, 2048, LEVELS, 99.99, "same")
        both = np.histogram(values, 2048, (-limit, limit))
        theirs = collector.get_entropy_threshold(
            (both[0], both[1].astype(np.float32), np.float32(-limit), np.float32(limit), limit),
            LEVELS,
        )[1]
        ours = entropy_threshold(np.histogram(np.abs(values), 2048, (0, limit))[0], limit)
        assert (ours < limit / 3) == cut
        assert (float(theirs) < limit / 3) == cut


@pytest.mark.parametrize("counts", [[1000, 10, 0, 5, 1], [0, 900, 3, 1, 1]])
def test_entropy_keeps_the_range_of_few_different_values(counts: list[int]) -> None:
    """Pixels of 5 grey levels: cutting all but the darkest leaves one bin, which fits itself."""
    histogram = np.zeros(2048, np.int64)
    histogram[np.minimum(np.arange(5) * 512, 2047)] = counts
    assert entropy_threshold(histogram, 16.0) == 16.0


def test_entropy_ignores_zeros_and_an_empty_tensor_keeps_its_range() -> None:
    counts = np.bincount(np.random.default_rng(0).integers(0, 2048, 5000), minlength=2048)
    flooded = counts.copy()
    flooded[0] += 10**9
    assert entropy_threshold(flooded, 1.0) == entropy_threshold(counts, 1.0)
    assert entropy_threshold(np.zeros(2048, np.int64), 3.0) == 3.0


@pytest.mark.parametrize(("percent", "expected"), [(100, 10.0), (90, 9.0), (89, 9.0), (51, 6.0)])
def test_percentile_is_the_edge_of_the_bin(percent: float, expected: float) -> None:
    assert percentile_threshold(np.full(10, 7), 10.0, percent) == pytest.approx(expected)
    assert percentile_threshold(np.zeros(10, np.int64), 2.0, percent) == 2.0


def _breakage(name: str, model: onnx.ModelProto) -> None:
    tensors = {t.name: t for t in model.graph.initializer}
    pairs = {node.name: node for node in model.graph.node}
    q, dq = pairs["w_QuantizeLinear"], pairs["w_DequantizeLinear"]
    if name == "asymmetric":
        tensors["x_zero_point"].CopyFrom(
            numpy_helper.from_array(np.array(np.int8(3)), "x_zero_point")
        )
    elif name == "uint8":
        tensors["x_zero_point"].CopyFrom(
            numpy_helper.from_array(np.array(np.uint8(0)), "x_zero_point")
        )
    elif name == "no zero point":
        del pairs["x_QuantizeLinear"].input[2:]
    elif name == "negative scale":
        tensors["x_scale"].CopyFrom(numpy_helper.from_array(np.array(np.float32(-1)), "x_scale"))
    elif name == "wrong axis":
        for node in (q, dq):
            next(a for a in node.attribute if a.name == "axis").i = 0
    elif name == "int32 bias":
        bias = numpy_helper.from_array(np.zeros(2, np.int32), "bias_int32")
        model.graph.initializer.append(bias)
        inputs = ["bias_int32", "x_scale", "x_zero_point"]
        model.graph.node.append(helper.make_node("DequantizeLinear", inputs, ["bias"], name="b"))
    elif name == "other scale":
        dq.input[1] = "x_scale"
    elif name == "read twice":
        model.graph.node.append(
            helper.make_node("Cast", [q.output[0]], ["c"], to=TensorProto.INT32)
        )
    elif name == "output":
        model.graph.output.add().name = pairs["x_DequantizeLinear"].output[0]
    elif name == "opset":
        model.opset_import[0].version = 11


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("asymmetric", "zero point is not 0"),
        ("uint8", "uint8"),
        ("no zero point", "no zero point"),
        ("negative scale", "not positive"),
        ("wrong axis", "axis 0 is not the output channel of MatMul"),
        ("int32 bias", "dequantizes int32"),
        ("other scale", "another scale"),
        ("read twice", "nothing else"),
        ("output", "an output of the graph"),
        ("opset", "opset 13"),
    ],
)
def test_checker_names_the_broken_rule(name: str, text: str, tmp_path: Path) -> None:
    model = graph("g (float[1,2] x) => (float[1,2] y) { y = MatMul (x, w) }", w=f32(np.eye(2)))
    result, _ = quantized(model, f32([[1, 2]]), tmp_path)
    _breakage(name, result)
    with pytest.raises(StageError, match=text):
        check_tensorrt_qdq(result)


def test_checker_refuses_what_the_tool_writes_by_default(tmp_path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(residual_net()), tmp_path / "in.onnx")
    quantize_static(tmp_path / "in.onnx", tmp_path / "out.onnx", _Reader(batches_of(images(8))()))
    with pytest.raises(StageError, match=r"zero point|int32"):
        check_tensorrt_qdq(onnx.load(tmp_path / "out.onnx"))
