from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from orchestrator.errors import StageError
from orchestrator.numerics.half import CastReport, lower_to_half
from orchestrator.numerics.half_types import FP16
from orchestrator.numerics.schemas import annotate, check_type_agreement
from tests.numerics.onnx_graphs import (
    Array,
    attribute,
    f32,
    graph,
    images,
    node,
    residual_net,
    run,
    snr_db,
    types_of,
)

FLOAT_MIN = float(np.finfo(np.float32).min)


def lower(model: onnx.ModelProto, **options: object) -> tuple[onnx.ModelProto, CastReport]:
    """Lower *model* and hold the result against everything that must accept it."""
    before = model.SerializeToString(deterministic=True)
    lowered, report = lower_to_half(model, FP16, **options)  # type: ignore[arg-type]
    assert model.SerializeToString(deterministic=True) == before, "the input was changed"
    onnx.checker.check_model(lowered, full_check=True)
    annotate(lowered)
    check_type_agreement(lowered)
    return lowered, report


def close(model: onnx.ModelProto, lowered: onnx.ModelProto, feed: dict[str, Array]) -> None:
    for optimize in (True, False):
        for expected, found in zip(
            run(model, feed), run(lowered, feed, optimize=optimize), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)


def test_conv_net_computes_in_half_with_fp32_boundary() -> None:
    model = residual_net()
    lowered, report = lower(model)
    types = types_of(lowered)
    assert types["x"] == "float"
    assert types["y"] == "float"
    assert {types[w] for w in ("w1", "b1", "w2", "wt", "wm", "wg")} == {"float16"}
    assert report.casts == 2
    assert report.kept == {}
    assert report.lowered["Conv"] == 2
    x = images(4)
    assert snr_db(run(model, {"x": x})[0], run(lowered, {"x": x})[0]) > 50


def test_without_keep_io_inputs_and_outputs_are_half() -> None:
    lowered, report = lower(residual_net(), keep_io=False)
    types = types_of(lowered)
    assert (types["x"], types["y"]) == ("float16", "float16")
    assert report.casts == 0
    assert run(lowered, {"x": images(2).astype(np.float16)})[0].dtype == np.float16


def test_overflowing_weight_names_tensor_and_node() -> None:
    model = graph(
        "g (float[2] x) => (float[2] y) { a = Relu (x)  [scaler] b = Mul (a, w)  y = Neg (b) }",
        w=np.array([1.0, 7e4], np.float32),
    )
    with pytest.raises(StageError) as caught:
        lower_to_half(model, FP16)
    assert "'w'" in caught.value.message
    assert "'scaler'" in caught.value.message
    assert "70000" in caught.value.message
    assert "precision.keep_nodes=['scaler']" in caught.value.hint

    lowered, report = lower(model, keep_nodes=["scaler"])
    assert report.constants.overflowed == 1
    assert report.kept == {"Mul": 1}
    assert types_of(lowered)["w"] == "float"
    close(model, lowered, {"x": np.array([0.5, 0.25], np.float32)})


def test_values_that_round_down_to_the_largest_half_are_refused_too() -> None:
    model = graph("g (float[1] x) => (float[1] y) { y = Mul (x, w) }", w=f32([65510.0]))
    with pytest.raises(StageError, match="65510"):
        lower_to_half(model, FP16)
    model = graph("g (float[1] x) => (float[1] y) { y = Mul (x, w) }", w=f32([-65504.0]))
    lower(model)


def test_subnormal_and_flushed_weights_are_counted() -> None:
    weights = np.array([0.0, 1.0, 3e-5, -1e-6, 1e-8, 2.0**-14], np.float32)
    model = graph(
        "g (float[6] x) => (float[6] y) { a = Mul (x, w) y = Add (a, e) }",
        w=weights,
        e=f32([1e-12]),
    )
    _, report = lower(model)
    assert report.constants.subnormal == 4
    assert report.constants.flushed == 2
    assert report.constants.flushed_scalars == ["e"]


def test_infinite_weights_stay_infinite() -> None:
    model = graph("g (float[2] x) => (float[2] y) { y = Max (x, w) }", w=f32([-np.inf, 0]))
    lowered, report = lower(model, keep_io=False)
    assert report.constants.sentinels == []
    weight = numpy_helper.to_array(lowered.graph.initializer[0])
    assert weight[0] == -np.inf


def test_weight_wanted_in_both_types_exists_twice() -> None:
    model = graph(
        "g (float[2] x) => (float[2] y) { a = Mul (x, w)  [kept] b = Mul (a, w)  y = Relu (b) }",
        w=f32([1.5, 2.5]),
    )
    lowered, _ = lower(model, keep_nodes=["kept"])
    assert sorted(t.data_type for t in lowered.graph.initializer) == [1, 10]
    close(model, lowered, {"x": f32([0.5, 0.25])})


@pytest.mark.parametrize(
    ("options", "key", "hint"),
    [
        ({"keep_nodes": ["scalar"]}, "precision.keep_nodes", "did you mean 'scaler'?"),
        ({"keep_op_types": ["Mull"]}, "precision.keep_op_types", "did you mean 'Mul'?"),
        ({"keep_nodes": ["zzz"]}, "precision.keep_nodes", "it has scaler"),
    ],
)
def test_kept_names_that_match_nothing(options: dict[str, list[str]], key: str, hint: str) -> None:
    model = graph("g (float[2] x) => (float[2] y) { [scaler] y = Mul (x, x) }")
    with pytest.raises(StageError) as caught:
        lower_to_half(model, FP16, **options)  # type: ignore[arg-type]
    assert caught.value.where == key
    assert caught.value.hint == hint


def test_keep_op_types_and_a_node_without_name() -> None:
    model = graph("g (float[2] x) => (float[2] y) { a = Exp (x) b = Mul (a, a) y = Relu (b) }")
    lowered, report = lower(model, keep_op_types=["Exp"], keep_nodes=["b"])
    assert report.kept == {"Exp": 1, "Mul": 1}
    assert report.casts == 2, "no Cast between kept neighbours: one before Relu, one after it"
    close(model, lowered, {"x": f32([0.5, 0.25])})


def test_casts_to_float_become_casts_to_half() -> None:
    model = graph(
        """g (float[2] x, int64[2] i, bool[2] b) => (float[2] y, int32[2] z) {
            f = Cast <to = 1> (i)  g = Cast <to = 1> (b)  h = Cast <to = 1> (x)
            s = Add (f, g)  t = Mul (s, h)  u = Cast <to = 11> (t)  v = Cast <to = 1> (u)
            y = Add (v, x)  z = Cast <to = 6> (t)
        }"""
    )
    lowered, _ = lower(model)
    feed: dict[str, Array] = {
        "x": f32([0.5, 2]), "i": np.array([3, 4]), "b": np.array([True, False])
    }  # fmt: skip
    close(model, lowered, feed)
    doubles = [n for n in lowered.graph.node if n.op_type == "Cast" and attribute(n, "to") == 11]
    assert len(doubles) == 1


def test_mask_of_fp32_minimum_keeps_its_meaning_and_stays_finite() -> None:
    """A row masked everywhere gives the same finite result, where -inf would give NaN."""
    model = graph(
        """g (float[b,4] scores, float[b,4] keep) => (float[b,4] y) {
            one = Constant <value = float {1.0}> ()
            low = Constant <value = float {-3.4028234663852886e38}> ()
            drop = Sub (one, keep)  mask = Mul (drop, low)  s = Add (scores, mask)
            y = Softmax <axis = -1> (s)
        }"""
    )
    lowered, report = lower(model)
    assert report.constants.sentinels == ["low"]
    feed: dict[str, Array] = {
        "scores": f32([[1, 2, 3, 4], [1, 2, 3, 4]]),
        "keep": f32([[1, 1, 0, 0], [0, 0, 0, 0]]),
    }
    [expected], [found] = run(model, feed), run(lowered, feed)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("low", [-1e9, FLOAT_MIN])
def test_where_mask_before_softmax(low: float) -> None:
    model = graph(
        """g (float[2,3] scores, bool[2,3] drop) => (float[2,3] y) {
            s = Where (drop, low, scores)  y = Softmax <axis = -1> (s)
        }""",
        low=f32(low),
    )
    lowered, report = lower(model)
    assert report.constants.sentinels == ["low"]
    drop = np.array([[True, False, False], [True, True, True]])
    feed: dict[str, Array] = {"scores": f32([[3, 1, 0], [1, 1, 1]]), "drop": drop}
    close(model, lowered, feed)


def test_large_negative_constant_that_is_no_mask_is_refused() -> None:
    text = """g (float[2,3] scores, bool[2,3] drop) => (float[2,3] y, float[2,3] {}) {{
        s = Where (drop, low, scores)  y = Softmax <axis = -1> (s)  {}
    }}"""
    for output, rest in (("s", ""), ("e", "e = Exp (s)")):
        model = graph(text.format(output, rest), low=f32(-1e9))
        with pytest.raises(StageError, match="'low'"):
            lower_to_half(model, FP16)
    scaled = graph(
        "g (float[3] x) => (float[3] y) { s = Mul (x, t) y = Softmax <axis = -1> (s) }",
        t=f32(1e6),
    )
    with pytest.raises(StageError, match="'t'"):
        lower_to_half(scaled, FP16)


def test_parameters_that_take_float_only_keep_it() -> None:
    model = graph(
        """g (float[1,1,4,4] x) => (float[1,1,6,6] y, int64[k,3] picked) {
            r = Relu (x)
            y = Resize <mode = "linear"> (r, , scales)
            boxes = Reshape (r, shape)  s = ReduceMax <keepdims = 0, axes = [2]> (boxes)
            scores = Unsqueeze (s, at)
            picked = NonMaxSuppression (boxes, scores, most, iou)
        }""",
        scales=f32([1, 1, 1.5, 1.5]),
        shape=np.array([1, 4, 4]),
        at=np.array([0]),
        most=np.array([3]),
        iou=f32([0.5]),
    )
    lowered, report = lower(model)
    types = types_of(lowered)
    assert types["scales"] == "float"
    assert types["iou"] == "float"
    assert report.kept == {"NonMaxSuppression": 1}
    assert report.lowered["Resize"] == 1
    x = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(run(lowered, {"x": x})[0], run(model, {"x": x})[0], atol=5e-3)


def test_operator_without_half_in_its_schema_stays_in_fp32() -> None:
    """Celu takes float only; CumSum takes float16 from opset 14 on. The schemas decide."""
    text = "g (float[4] x) => (float[4] y) { a = Celu (x) y = CumSum (a, zero) }"
    for opset, kept in ((13, {"Celu": 1, "CumSum": 1}), (14, {"Celu": 1})):
        model = graph(text, opset=opset, zero=np.array(0, np.int64))
        lowered, report = lower(model)
        assert report.kept == kept
        close(model, lowered, {"x": f32([-1, 2, -3, 4])})


def test_layer_normalization_statistics_stay_in_fp32() -> None:
    model = graph(
        """g (float[2,4] x) => (float[2,4] y, float[2,1] mean) {
            y, mean, inverse = LayerNormalization (x, scale, bias)
        }""",
        scale=f32([1, 2, 3, 4]),
        bias=f32([0, 1, 0, 1]),
    )
    lowered, _ = lower(model, keep_io=False)
    types = types_of(lowered)
    assert (types["y"], types["mean"]) == ("float16", "float16")
    assert node(lowered, "Cast").output[0] == "mean", "U of the schema excludes float16"


def test_positions_and_sizes_stay_exact() -> None:
    """fp16 counts to 2048: neither 3001 / 1.5 nor the angle of position 3000 may be rounded."""
    model = graph(
        """g (float[n] x) => (float[m] y, float[n] angle) {
            size = Shape (x)  f = Cast <to = 1> (size)  h = Mul (f, half)  w = Floor (h)
            count = Cast <to = 7> (w)  one = ConstantOfShape <value = float[1] {1.0}> (count)
            n = Squeeze (size)  steps = Range (zero, n, step)  p = Cast <to = 1> (steps)
            turn = Mul (p, rate)  angle = Sin (turn)  y = Relu (one)
        }""",
        half=f32([1 / 1.5]),
        rate=f32(0.7),
        zero=np.array(0),
        step=np.array(1),
    )
    lowered, report = lower(model)
    assert report.kept["Floor"] == 1
    assert report.kept["Sin"] == 1
    x = np.zeros(3001, np.float32)
    expected, found = run(model, {"x": x}), run(lowered, {"x": x})
    assert found[0].shape == expected[0].shape
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)


def test_if_bodies_with_captured_values_and_constants() -> None:
    model = graph(
        """g (bool c, float[2] x) => (float[2] y) {
            r = Relu (x)
            z = If (c) <
                then_branch = t () => (float[2] a) {
                    k = Constant <value = float[1] {2.5}> ()  a = Mul (r, k)
                },
                else_branch = e () => (float[2] d) { h = Celu (r) d = Mul (h, w) }
            >
            y = Add (z, w)
        }""",
        w=f32([3, 4]),
    )
    for keep in ([], ["If"]):
        lowered, report = lower(model, keep_op_types=keep)
        assert ("If" in report.kept) == bool(keep)
        for choice in (True, False):
            close(model, lowered, {"c": np.array(choice), "x": f32([0.5, -1])})
    lowered, _ = lower(model)
    bodies = [attribute(node(lowered, "If"), key) for key in ("then_branch", "else_branch")]
    assert {body.output[0].type.tensor_type.elem_type for body in bodies} == {TensorProto.FLOAT16}


def test_loop_carries_half() -> None:
    model = graph(
        """g (int64 times, float[2] x) => (float[2] y, float[k,2] all) {
            go = Constant <value = bool {1}> ()
            y, all = Loop (times, go, x) <
              body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] u) {
                d = Identity (c)  t = Mul (s, w)  u = Add (t, x)
            }>
        }""",
        w=f32([1.5, 0.5]),
    )
    lowered, _ = lower(model)
    body = attribute(node(lowered, "Loop"), "body")
    assert body.input[2].type.tensor_type.elem_type == TensorProto.FLOAT16
    close(model, lowered, {"times": np.array(3), "x": f32([0.5, -1])})


def test_output_that_is_an_input_or_a_constant_or_read_again() -> None:
    model = graph(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] w) { y = Relu (x) z = Neg (y) }",
        w=f32([1, 2]),
    )
    for keep_io in (True, False):
        lowered, _ = lower(model, keep_io=keep_io)
        assert [o.name for o in lowered.graph.output] == ["y", "z", "w"]
        x = f32([0.5, -1]).astype(np.float32 if keep_io else np.float16)
        for expected, found in zip(
            run(model, {"x": f32([0.5, -1])}), run(lowered, {"x": x}), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_default_of_an_input_has_the_type_of_the_input() -> None:
    text = "g (float[2] x, float[2] w) => (float[2] y) { y = Mul (x, w) }"
    model = graph(text, w=f32([1.5, 2]))
    for keep_io, kind in ((True, TensorProto.FLOAT), (False, TensorProto.FLOAT16)):
        lowered, _ = lower(model, keep_io=keep_io)
        [default] = lowered.graph.initializer
        assert default.data_type == kind
        x = f32([0.5, -1]).astype(np.float32 if keep_io else np.float16)
        assert run(lowered, {"x": x})[0].tolist() == [0.75, -2]


def test_generators_stay_in_fp32_and_filled_tensors_follow() -> None:
    model = graph(
        """g (float[3] x) => (float[3] y, float[3,3] e) {
            size = Shape (x)  zeros = ConstantOfShape (size)
            floor = ConstantOfShape <value = float[1] {-3.4028234663852886e38}> (size)
            e0 = EyeLike <dtype = 1> (square)  e = Relu (e0)
            noise = RandomNormal <shape = [3]> ()  silent = Mul (noise, zeros)
            a = Max (x, floor)  y = Add (a, silent)
        }""",
        square=np.zeros((3, 3), np.int64),
    )
    lowered, report = lower(model)
    assert report.constants.sentinels == ["floor"]
    assert report.kept == {"EyeLike": 1, "RandomNormal": 1}
    filled = attribute(node(lowered, "ConstantOfShape"), "value")
    assert filled.data_type == TensorProto.FLOAT16, "its default is float32"
    close(model, lowered, {"x": f32([1, -2, 3])})


def test_sequences_stay_in_fp32() -> None:
    model = graph(
        """g (float[2] x) => (float[4] y) {
            a = Relu (x)  s = SequenceConstruct (a, x)
            b = ConcatFromSequence <axis = 0> (s)  y = Neg (b)
        }"""
    )
    lowered, report = lower(model)
    assert report.kept == {"ConcatFromSequence": 1, "SequenceConstruct": 1}
    close(model, lowered, {"x": f32([1, -2])})


def test_custom_operator_without_type_is_named() -> None:
    mystery = helper.make_node("Mystery", ["x"], ["a"], name="odd", domain="custom")
    relu = helper.make_node("Relu", ["a"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    body = helper.make_graph([mystery, relu], "g", ports[:1], ports[1:])
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    )
    with pytest.raises(StageError, match="'a' is unknown") as caught:
        lower_to_half(model, FP16)
    assert "odd" in caught.value.where
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [2]))
    lowered, report = lower_to_half(model, FP16)
    assert report.kept == {"Mystery": 1}
    assert [n.op_type for n in lowered.graph.node] == ["Mystery", "Cast", "Relu", "Cast"]


def test_local_functions_are_inlined() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x) => (float[2] y) { y = local.twice (x) }
        <domain: "local", opset_import: ["": 17]>
        twice (a) => (b) { b = Add (a, a) }"""
    )
    lowered, report = lower(model)
    assert report.lowered == {"Add": 1}
    assert run(lowered, {"x": f32([1, 2])})[0].tolist() == [2, 4]


def test_graph_whose_types_already_disagree_is_refused() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, float16[2] h) => (float[2] y) { y = Add (x, h) }"""
    )
    with pytest.raises(StageError):
        lower_to_half(model, FP16)


def test_lowering_is_deterministic() -> None:
    first, second = (lower_to_half(residual_net(), FP16)[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


class _SmallNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        y = torch.nn.functional.interpolate(y, scale_factor=1.5, mode="bilinear")
        result: torch.Tensor = self.head(y.flatten(1))
        return result


@pytest.mark.parametrize("dynamo", [True, False])
def test_exported_net(dynamo: bool, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, x = _SmallNet().eval(), torch.from_numpy(images(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(net, (x,), dynamo=True, opset_version=18, verbose=False)
            assert program is not None
            model = program.model_proto
        else:
            buffer = io.BytesIO()
            torch.onnx.export(net, (x,), buffer, dynamo=False, opset_version=13)  # type: ignore[arg-type]
            model = onnx.load_from_string(buffer.getvalue())
    lowered, report = lower(model)
    assert report.kept == {}
    with torch.inference_mode():
        expected = net(x).numpy()
    assert snr_db(expected, run(lowered, {model.graph.input[0].name: x.numpy()})[0]) > 50
