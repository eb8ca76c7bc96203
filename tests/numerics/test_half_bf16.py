"""What is of bf16 alone; the rules it shares with fp16 are tested in ``test_half``.

No kernel of ONNX Runtime computes in bf16 on a CPU, so lowered graphs run widened (``widen_bf16``,
tested against PyTorch's bfloat16 and onnx's own evaluator).
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from orchestrator.errors import StageError
from orchestrator.numerics.half import CastReport, lower_to_half
from orchestrator.numerics.half_constants import ConstantReport, to_half
from orchestrator.numerics.half_types import BF16, FP16, HALF_TYPES, HalfType
from orchestrator.numerics.schemas import annotate, check_type_agreement, schema_of
from orchestrator.numerics.widen import widen_bf16
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
    """Lower *model* and hold the result against what must accept it."""
    lowered, report = lower_to_half(model, BF16, **options)  # type: ignore[arg-type]
    onnx.checker.check_model(lowered, full_check=True)
    annotate(lowered)
    check_type_agreement(lowered)
    return lowered, report


def run_bf16(lowered: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    return run(widen_bf16(lowered), feed, optimize=False)


def tensor_of(values: Array) -> TensorProto:
    return numpy_helper.from_array(values, "w")


def rounded(values: Array, half: HalfType) -> tuple[Array, ConstantReport]:
    report = ConstantReport()
    tensor = to_half(
        tensor_of(values), "w", ["user"], half=half, mask=False, report=report, overflows=[]
    )
    return numpy_helper.to_array(tensor).astype(np.float32), report


def test_conv_net_computes_in_bf16_with_fp32_boundary() -> None:
    model = residual_net(opset=22)
    lowered, report = lower(model)
    types = types_of(lowered)
    assert (types["x"], types["y"]) == ("float", "float")
    assert {types[w] for w in ("w1", "b1", "w2", "wt", "wm", "wg")} == {"bfloat16"}
    assert {types[v] for v in ("c1", "r2", "t3", "s4")} == {"bfloat16"}
    assert report.casts == 2
    assert report.kept == {}
    x = images(4)
    expected = run(model, {"x": x})[0]
    assert snr_db(expected, run_bf16(lowered, {"x": x})[0]) > 40
    evaluated = ReferenceEvaluator(lowered).run(None, {"x": x})
    assert isinstance(evaluated, list)
    assert snr_db(expected, evaluated[0]) > 35


def test_without_keep_io_inputs_and_outputs_are_bf16() -> None:
    lowered, report = lower(residual_net(opset=22), keep_io=False)
    types = types_of(lowered)
    assert (types["x"], types["y"]) == ("bfloat16", "bfloat16")
    assert report.casts == 0


def test_kept_nodes_compute_in_fp32() -> None:
    model = graph(
        "g (float[2] x) => (float[2] y) { a = Exp (x)  [kept] b = Mul (a, w)  y = Mul (b, w) }",
        opset=22,
        w=f32([1.001, 3.003]),
    )
    lowered, report = lower(model, keep_op_types=["Exp"], keep_nodes=["kept"])
    assert report.kept == {"Exp": 1, "Mul": 1}
    kept = next(found for found in lowered.graph.node if found.name == "kept")
    types = types_of(lowered)
    assert {types[name] for name in (*kept.input, *kept.output)} == {"float"}
    assert sorted(t.data_type for t in lowered.graph.initializer) == [1, 16], "both types are used"
    assert all(
        name.endswith("_bf16") for name in types if types[name] == "bfloat16" and name != "w"
    )


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_an_older_opset_is_refused_and_named(opset: int) -> None:
    with pytest.raises(StageError, match=f"bf16 needs opset 22 or newer, this model has {opset}"):
        lower_to_half(residual_net(opset=opset), BF16)
    with pytest.raises(StageError) as caught:
        lower_to_half(residual_net(opset=opset), BF16)
    assert caught.value.where == "exporter.opset"
    assert "exporter.opset=22" in caught.value.hint


def test_opset_22_is_where_convolutions_take_bf16() -> None:
    """Why older models are refused: the operators that matter would stay in fp32."""
    for op_type in ("Conv", "ConvTranspose", "MaxPool", "Sin"):
        made = onnx.helper.make_node(op_type, [], [])
        for opset, takes in ((21, False), (BF16.least_opset, True)):
            schema = schema_of(made, {"": opset})
            assert schema is not None
            assert (BF16.schema in schema.inputs[0].types) == takes, (op_type, opset)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('y = Einsum <equation = "ij,jk->ik"> (a, w)', {"Einsum": 1}),
        ("k = Constant <value_ints = [2]> ()  y, i = TopK (a, k)", {"TopK": 1}),
    ],
)
def test_operators_without_bf16_in_their_schema_stay_in_fp32(
    text: str, kept: dict[str, int]
) -> None:
    """They take float16: the schemas decide for each type on its own."""
    model = graph(
        f"g (float[2,2] x) => (float[2,2] y) {{ a = Relu (x)  {text} }}",
        opset=22,
        w=f32([[1, 2], [3, 4]]),
    )
    lowered, report = lower(model)
    assert report.kept == kept
    assert lower_to_half(model, FP16)[1].kept == {}
    x = f32([[0.5, -1], [2, 3]])
    assert snr_db(run(model, {"x": x})[0], run_bf16(lowered, {"x": x})[0]) > 40


def test_numbers_beyond_fp16_fit() -> None:
    model = graph(
        "g (float[3] x) => (float[3] y) { a = Mul (x, w)  b = Add (a, e)  y = Mul (b, v) }",
        opset=22,
        w=f32([2.0**17, 2.0**100, -2.0]),
        e=f32([1e-12]),
        v=f32([2.0**-14, 2.0**-80, 1]),
    )
    lowered, report = lower(model)
    assert report.constants == ConstantReport()
    x = f32([1, 2, 3])
    assert snr_db(run(model, {"x": x})[0], run_bf16(lowered, {"x": x})[0]) > 40
    with pytest.raises(StageError, match="fp16"):
        lower_to_half(model, FP16)


def test_a_number_between_the_largest_of_bf16_and_of_fp32_is_refused() -> None:
    model = graph(
        "g (float[1] x) => (float[1] y) { [big] y = Mul (x, w) }", opset=22, w=f32([3.395e38])
    )
    with pytest.raises(StageError, match=r"'w' does not fit bf16.*±3\.38953e\+38") as caught:
        lower_to_half(model, BF16)
    assert "precision.keep_nodes=['big']" in caught.value.hint
    _, report = lower(model, keep_nodes=["big"])
    assert report.constants.overflowed == 1


def test_the_limit_of_fp32_stays_finite() -> None:
    """Rounded to nearest it would be infinite, and a row that is masked everywhere NaN."""
    model = graph(
        """g (float[b,4] scores, float[b,4] keep) => (float[b,4] y) {
            one = Constant <value = float {1.0}> ()
            low = Constant <value = float {-3.4028234663852886e38}> ()
            drop = Sub (one, keep)  mask = Mul (drop, low)  s = Add (scores, mask)
            y = Softmax <axis = -1> (s)
        }""",
        opset=22,
    )
    assert np.isinf(torch.tensor(FLOAT_MIN).bfloat16().item())
    lowered, report = lower(model)
    assert report.constants.sentinels == ["low"]
    feed: dict[str, Array] = {
        "scores": f32([[1, 2, 3, 4], [1, 2, 3, 4]]),
        "keep": f32([[1, 1, 0, 0], [0, 0, 0, 0]]),
    }
    [expected], [found] = run(model, feed), run_bf16(lowered, feed)
    np.testing.assert_allclose(found[0], expected[0], atol=4e-3)
    assert np.isfinite(found).all()


def test_a_mask_that_fits_is_an_ordinary_number() -> None:
    model = graph(
        """g (float[2,3] scores, bool[2,3] drop) => (float[2,3] y) {
            s = Where (drop, low, scores)  y = Softmax <axis = -1> (s)
        }""",
        opset=22,
        low=f32(-1e9),
    )
    lowered, report = lower(model)
    assert report.constants.sentinels == []
    [low] = lowered.graph.initializer
    assert numpy_helper.to_array(low).astype(np.float32) == np.float32(-998244352)


@pytest.mark.parametrize(
    ("half", "numbers", "changed"),
    [
        (BF16, [256, 258, 512], False),
        (BF16, [1, 257], True),
        (BF16, [-641], True),
        (BF16, [300.5], False),
        (FP16, [2048, 257], False),
        (FP16, [2049], True),
        (BF16, [np.inf, -np.inf], False),
    ],
)
def test_whole_numbers_that_change_are_named(
    half: HalfType, numbers: list[float], changed: bool
) -> None:
    assert (rounded(f32(numbers), half)[1].miscounted == ["w"]) == changed


def test_the_constants_of_the_types() -> None:
    for half in HALF_TYPES.values():
        finfo = torch.finfo(torch.float16 if half is FP16 else torch.bfloat16)
        assert half.largest == finfo.max
        assert half.smallest_normal == finfo.smallest_normal
        count = float(half.counts_to)
        whole = f32([count - 1, count, count + 1])
        assert (whole.astype(half.dtype).astype(np.float32) == whole).tolist() == [
            True,
            True,
            False,
        ]


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, min_value=-BF16.largest, max_value=BF16.largest),
        min_size=1,
        max_size=20,
    )
)
def test_constants_round_as_pytorch_rounds(values: list[float]) -> None:
    found, report = rounded(f32(values), BF16)
    expected = torch.tensor(f32(values)).bfloat16().float().numpy()
    np.testing.assert_array_equal(found, expected)
    zero = (f32(values) != 0) & (expected == 0)
    assert report.flushed == int(zero.sum())


def test_positions_and_sizes_stay_exact() -> None:
    """bf16 counts to 256: neither the size 3001 / 1.5 nor position 3000 may be rounded."""
    model = graph(
        """g (float[n] x) => (float[m] y, float[n] angle) {
            size = Shape (x)  f = Cast <to = 1> (size)  h = Mul (f, half)  w = Floor (h)
            count = Cast <to = 7> (w)  one = ConstantOfShape <value = float[1] {1.0}> (count)
            n = Squeeze (size)  steps = Range (zero, n, step)  p = Cast <to = 1> (steps)
            turn = Mul (p, rate)  angle = Sin (turn)  y = Relu (one)
        }""",
        opset=22,
        half=f32([1 / 1.5]),
        rate=f32(0.7),
        zero=np.array(0),
        step=np.array(1),
    )
    lowered, report = lower(model)
    assert report.kept["Floor"] == 1
    assert report.kept["Sin"] == 1
    x = np.zeros(3001, np.float32)
    expected, found = run(model, {"x": x}), run_bf16(lowered, {"x": x})
    assert found[0].shape == expected[0].shape
    np.testing.assert_allclose(found[1], expected[1], atol=5e-3)


def test_bodies_and_filled_tensors_are_bf16() -> None:
    model = graph(
        """g (bool c, float[2] x) => (float[2] y) {
            r = Relu (x)  size = Shape (x)  zeros = ConstantOfShape (size)
            z = If (c) <
                then_branch = t () => (float[2] a) {
                    k = Constant <value = float[1] {2.5}> ()  a = Mul (r, k)
                },
                else_branch = e () => (float[2] d) { h = Einsum <equation = "i->i"> (r)
                    d = Mul (h, w) }
            >
            s = Add (z, w)  y = Add (s, zeros)
        }""",
        opset=22,
        w=f32([3, 4]),
    )
    lowered, report = lower(model)
    assert report.kept == {"Einsum": 1}
    bodies = [attribute(node(lowered, "If"), key) for key in ("then_branch", "else_branch")]
    assert {body.output[0].type.tensor_type.elem_type for body in bodies} == {TensorProto.BFLOAT16}
    filled = attribute(node(lowered, "ConstantOfShape"), "value")
    assert filled.data_type == TensorProto.BFLOAT16
    for choice in (True, False):
        feed: dict[str, Array] = {"c": np.array(choice), "x": f32([0.5, -1])}
        np.testing.assert_allclose(run_bf16(lowered, feed)[0], run(model, feed)[0], rtol=8e-3)
