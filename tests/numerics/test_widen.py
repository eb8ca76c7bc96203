from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from orchestrator.numerics.half import lower_to_half
from orchestrator.numerics.half_types import BF16
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
    types_of,
)


def widened(model: onnx.ModelProto, *, keep_io: bool = True) -> onnx.ModelProto:
    lowered, _ = lower_to_half(model, BF16, keep_io=keep_io)
    before = lowered.SerializeToString(deterministic=True)
    wide = widen_bf16(lowered)
    assert lowered.SerializeToString(deterministic=True) == before, "the input was changed"
    onnx.checker.check_model(wide, full_check=True)
    return wide


def numbers(*shape: int, seed: int = 0) -> Array:
    return f32(np.random.default_rng(seed).normal(size=shape))


def test_onnxruntime_has_no_bf16_kernels_on_a_cpu() -> None:
    """When it has, lowered graphs can run as they are, and this module can go."""
    lowered, _ = lower_to_half(residual_net(opset=22), BF16)
    with pytest.raises(Exception, match="Could not find an implementation"):
        ort.InferenceSession(lowered.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("optimize", [True, False])
def test_every_operator_rounds_once_as_in_pytorch(optimize: bool) -> None:
    model = graph(
        """g (float[64] x, float[64] z) => (float[64] y) {
            a = Mul (x, z)  b = Add (a, w)  c = Sub (b, x)  y = Div (c, z)
        }""",
        opset=22,
        w=numbers(64, seed=2),
    )
    x, z, w = (torch.from_numpy(numbers(64, seed=seed)).bfloat16() for seed in range(3))
    expected = (((x * z) + w) - x) / z
    feed = {"x": numbers(64, seed=0), "z": numbers(64, seed=1)}
    found = run(widened(model), feed, optimize=optimize)[0]
    np.testing.assert_array_equal(found, expected.float().numpy())
    assert not np.array_equal(found, run(model, feed)[0])


def test_products_accumulate_in_fp32() -> None:
    model = graph(
        "g (float[4,512] x) => (float[4,8] y) { y = MatMul (x, w) }", opset=22, w=numbers(512, 8)
    )
    x = numbers(4, 512, seed=1)
    narrow = [torch.from_numpy(array).bfloat16() for array in (x, numbers(512, 8))]
    exact = narrow[0].double() @ narrow[1].double()
    found = run(widened(model), {"x": x})[0]
    # One rounding, to 8 bits of precision; the order of the sum adds next to nothing.
    np.testing.assert_allclose(found, exact.numpy(), rtol=2**-8 * 1.01, atol=1e-5)


def test_agrees_with_the_evaluator_of_onnx() -> None:
    lowered, _ = lower_to_half(residual_net(opset=22), BF16)
    x = images(8)
    evaluated = ReferenceEvaluator(lowered).run(None, {"x": x})
    assert isinstance(evaluated, list)
    found = run(widen_bf16(lowered), {"x": x}, optimize=False)[0]
    # The evaluator sums in bf16; the logits reach 3.
    np.testing.assert_allclose(found, evaluated[0], atol=0.1)


def test_inputs_and_outputs_become_fp32_and_inputs_are_rounded() -> None:
    model = graph(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = t () => (float[2] a) { a = Sub (x, near) },
                else_branch = e () => (float[2] d) { d = Sub (near, x) }
            >
        }""",
        opset=22,
        near=f32([1, 256]),
    )
    wide = widened(model, keep_io=False)
    assert (types_of(wide)["x"], types_of(wide)["y"]) == ("float", "float")
    x = f32([1 + 2**-8, 257])
    for choice in (True, False):
        found = run(wide, {"c": np.array(choice), "x": x})[0]
        np.testing.assert_array_equal(found, f32([0, 0]))


def test_constants_and_filled_tensors_become_fp32() -> None:
    model = graph(
        """g (int64[2] i) => (float[2] y) {
            f = Cast <to = 1> (i)  size = Shape (i)
            k = ConstantOfShape <value = float[1] {1.001}> (size)
            c = Constant <value = float[2] {1.001, 3.0}> ()  s = Mul (f, k)  y = Mul (s, c)
        }""",
        opset=22,
    )
    wide = widened(model)
    assert TensorProto.BFLOAT16 not in {t.data_type for t in wide.graph.initializer}
    np.testing.assert_array_equal(run(wide, {"i": np.array([257, 2])})[0], f32([256, 6]))


def test_the_attribute_of_a_result_becomes_fp32() -> None:
    model = graph(
        """g (int8[2] i) => (float[2] y) {
            d = DequantizeLinear <output_dtype = 1> (i, scale)  y = Relu (d)
        }""",
        opset=23,
        scale=f32(1.001),
    )
    lowered, _ = lower_to_half(model, BF16)
    assert attribute(node(lowered, "DequantizeLinear"), "output_dtype") == TensorProto.BFLOAT16
    wide = widened(model)
    assert attribute(node(wide, "DequantizeLinear"), "output_dtype") == TensorProto.FLOAT
    np.testing.assert_array_equal(run(wide, {"i": np.array([5, -5], np.int8)})[0], f32([5, 0]))
