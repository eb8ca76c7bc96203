from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from orchestrator.graphs import canonical
from orchestrator.graphs import files as onnx_files
from orchestrator.stages import canonicalize
from tests.modules import graphs
from tests.stage_context import run_stage

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)

NESTED = """<ir_version: 8, opset_import: ["" : 17, "local" : 1, "com.unused" : 3]>
g (bool c, float[N, 4] x) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, float[4] dead = {0, 0, 0, 0}> {
    scaled = local.scale (x)
    chosen = If (c) <
        then_branch = t () => (float[N, 4] a) { a = Add (scaled, w) },
        else_branch = e () => (float[N, 4] b) { k = Constant <value = float[4] {3, 4, 5, 6}> ()
                                                b = Mul (scaled, k) }
    >
    trips = Constant <value = int64 {3}> ()
    go = Constant <value = bool {1}> ()
    y = Loop (trips, go, chosen) <
        body = l (int64 i, bool on, float[N, 4] v) => (bool still, float[N, 4] next) {
            still = Identity (on)
            next = Add (v, scaled)
        }
    >
}
<domain: "local", opset_import: ["" : 17]>
scale (z) => (r) { two = Constant <value = float {2.0}> () r = Mul (z, two) }
"""


def noisy(model: ModelProto, seed: int) -> ModelProto:
    """Return *model* with everything changed that has no meaning."""
    rng = random.Random(seed)  # noqa: S311 - shuffles a test model
    copied = ModelProto()
    copied.CopyFrom(model)
    copied.producer_name, copied.producer_version = "someone", str(seed)
    copied.model_version = seed
    copied.doc_string = copied.graph.doc_string = f"written {seed}"
    copied.graph.name = f"g{seed}"
    copied.ir_version = rng.choice([8, 9, 10])
    helper.set_model_props(copied, {"run": str(seed)})
    shuffled = list(copied.graph.initializer)
    rng.shuffle(shuffled)
    texts = [tensor.SerializeToString() for tensor in shuffled]
    del copied.graph.initializer[:]
    for text in texts:
        tensor = copied.graph.initializer.add()
        tensor.ParseFromString(text)
        tensor.doc_string = f"weight {seed}"
        if rng.random() < 0.5 and tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, np.float32).tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)
    for value in (*copied.graph.input, *copied.graph.output):
        value.doc_string = f"port {seed}"
    for node in copied.graph.node:
        node.doc_string = f"made at {seed}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.stack_trace", f"line {seed}"
        attributes = [a.SerializeToString() for a in node.attribute]
        rng.shuffle(attributes)
        del node.attribute[:]
        for text in attributes:
            node.attribute.add().ParseFromString(text)
        for graph in onnx_files.subgraphs(node):
            graph.doc_string = f"body {seed}"
            for inner in graph.node:
                inner.doc_string = f"inside {seed}"
    for function in copied.functions:
        function.doc_string = f"function {seed}"
        for node in function.node:
            node.doc_string = f"inside {seed}"
    copied.opset_import.add(domain=f"com.unused{seed}", version=1)
    return copied


def canonical_bytes(model: ModelProto) -> bytes:
    copied = ModelProto()
    copied.CopyFrom(model)
    canonical.canonicalize(copied)
    return copied.SerializeToString(deterministic=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10**6), st.sampled_from(["chain", "nested"]))
def test_models_that_differ_only_in_metadata_become_the_same_bytes(seed: int, kind: str) -> None:
    model = graphs.chain() if kind == "chain" else graphs.parsed(NESTED)
    assert canonical_bytes(noisy(model, seed)) == canonical_bytes(model)


@pytest.mark.parametrize("text", [NESTED])
def test_it_is_idempotent_and_valid(text: str, tmp_path: Path) -> None:
    for model in (graphs.parsed(text), graphs.chain()):
        canonical.canonicalize(model)
        onnx.checker.check_model(model, full_check=True)
        assert canonical_bytes(model) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_and_functions_compute_the_same(tmp_path: Path, condition: bool) -> None:
    tree = graphs.tree(tmp_path / "t", graphs.parsed(NESTED))
    run = run_stage(canonicalize.STAGE, tmp_path, {}, {"onnx": tree})
    feeds = {"x": X, "c": np.array(condition)}
    np.testing.assert_array_equal(
        graphs.run(run.outputs["onnx"], **feeds)[0], graphs.run(tree, **feeds)[0]
    )
    model = onnx_files.load(run.outputs["onnx"])
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17), ("local", 1)]
    assert [t.name for t in model.graph.initializer] == ["w"]  # read by a body only
    assert run.values["opset"] == 17
    assert run.values["weights_bytes"] == 16


def test_a_value_captured_by_a_body_orders_the_nodes() -> None:
    model = graphs.parsed(NESTED)
    before = [node.op_type for node in model.graph.node]
    nodes = [node.SerializeToString() for node in model.graph.node]
    del model.graph.node[:]
    for text in reversed(nodes):
        model.graph.node.add().ParseFromString(text)
    canonical.canonicalize(model)
    onnx.checker.check_model(model, full_check=True)
    after = [node.op_type for node in model.graph.node]
    assert sorted(after) == sorted(before)
    assert after.index("scale") < after.index("If") < after.index("Loop")


def test_a_valid_order_stays() -> None:
    model = graphs.chain()
    canonical.canonicalize(model)
    assert [node.name for node in model.graph.node] == ["mul", "relu", "add"]
    assert [t.name for t in model.graph.initializer] == ["scale", "shift"]


@pytest.mark.parametrize(("opset", "ir"), [(11, 8), (17, 8), (18, 8), (20, 9), (21, 10), (23, 11)])
def test_the_ir_version_follows_the_opset(opset: int, ir: int) -> None:
    model = graphs.chain(opset)
    canonical.canonicalize(model)
    assert model.ir_version == ir
    onnx.checker.check_model(model, full_check=True)


def test_types_that_came_later_keep_their_ir_version() -> None:
    model = graphs.model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)],
        outputs=[("y", TensorProto.FLOAT8E4M3FN, ("batch", 4))],
        opset=19,
    )
    canonical.canonicalize(model)
    assert model.ir_version == 9


def test_the_default_domain_has_one_name() -> None:
    model = graphs.chain()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    assert canonical_bytes(model) == canonical_bytes(graphs.chain())


def test_large_weights_stay_byte_for_byte(tmp_path: Path) -> None:
    first = graphs.tree(tmp_path / "first", graphs.large())
    second = graphs.tree(tmp_path / "second", noisy(graphs.large(), 7))
    runs = [
        run_stage(canonicalize.STAGE, tmp_path, {}, {"onnx": tree}).outputs["onnx"]
        for tree in (first, second)
    ]
    weights = (first / onnx_files.WEIGHTS).read_bytes()
    for root in runs:
        assert (root / onnx_files.WEIGHTS).read_bytes() == weights
        assert (
            onnx_files.model_path(root).read_bytes() == onnx_files.model_path(runs[0]).read_bytes()
        )
    np.testing.assert_array_equal(graphs.run(runs[0], x=X)[0], graphs.run(first, x=X)[0])
