from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxsim
import pytest
from onnx import helper

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.stages import simplify
from tests.modules import graphs
from tests.stage_context import StageRun, run_stage

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def simplified(tmp_path: Path, tree: Path, **options: Any) -> StageRun:
    params = {"simplifier": {"name": "onnxsim", **options}}
    return run_stage(simplify.STAGE, tmp_path, params, {"onnx": tree})


def foldable() -> Any:
    return graphs.model(
        [
            helper.make_node("Add", ["one", "one"], ["two"]),
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Mul", ["same", "two"], ["y"]),
        ],
        {"one": np.ones(4, np.float32)},
    )


def batch_norm() -> Any:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((2, 1, 3, 3)).astype(np.float32)}
    weights |= {n: rng.uniform(0.5, 1.5, 2).astype(np.float32) for n in ("s", "b", "m", "v")}
    shape = ("batch", 1, 4, 4)
    return graphs.model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
        ],
        weights,
        inputs=[("x", graphs.FLOAT, shape)],
        outputs=[("y", graphs.FLOAT, ("batch", 2, 4, 4))],
    )


def ops(tree: Path) -> list[str]:
    return [node.op_type for node in onnx_files.load(tree).graph.node]


def test_constants_are_folded_and_the_result_is_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = graphs.tree(tmp_path / "t", foldable())
    run = simplified(tmp_path, tree)
    assert capfd.readouterr() == ("", "")
    assert ops(run.outputs["onnx"]) == ["Mul"]
    assert run.values == {"nodes_before": 3, "nodes": 1}
    np.testing.assert_array_equal(graphs.run(run.outputs["onnx"], x=X)[0], graphs.run(tree, x=X)[0])


def test_constant_folding_can_be_left_out(tmp_path: Path) -> None:
    tree = graphs.tree(tmp_path / "t", foldable())
    run = simplified(tmp_path, tree, constant_folding=False)
    assert "Add" in ops(run.outputs["onnx"])


def test_batch_normalization_is_fused_unless_asked_not_to(tmp_path: Path) -> None:
    tree = graphs.tree(tmp_path / "t", batch_norm())
    x = np.random.default_rng(1).standard_normal((2, 1, 4, 4)).astype(np.float32)
    fused = simplified(tmp_path, tree).outputs["onnx"]
    assert ops(fused) == ["Conv"]
    np.testing.assert_allclose(graphs.run(fused, x=x)[0], graphs.run(tree, x=x)[0], atol=1e-5)
    kept = simplified(tmp_path, tree, fuse_batch_norm=False).outputs["onnx"]
    assert ops(kept) == ["Conv", "BatchNormalization"]


def test_weights_outside_the_file_behind_a_linked_directory(tmp_path: Path) -> None:
    stored = graphs.tree(tmp_path / "stored", graphs.large(mebibytes=30))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / onnx_files.MODEL).write_bytes((stored / onnx_files.MODEL).read_bytes())
    (tree / "weights").symlink_to(stored / "weights")
    run = simplified(tmp_path, tree)
    np.testing.assert_allclose(
        graphs.run(run.outputs["onnx"], x=X)[0], graphs.run(stored, x=X)[0], rtol=1e-5, atol=1e-5
    )
    # The simplifier stores a == c once, and 20 MiB are still large.
    assert onnx_files.external_files(
        onnx_files.load(run.outputs["onnx"], weights=False), run.outputs["onnx"]
    )


def test_none_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    tree = graphs.tree(tmp_path / "t", foldable())
    run = simplified(tmp_path, tree, name="none")
    assert onnx_files.load(run.outputs["onnx"]) == onnx_files.load(tree)
    assert simplify.STAGE.tools_for({"simplifier": {"name": "none"}}) == ("onnx",)


def test_a_failing_simplifier_suggests_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = graphs.tree(tmp_path / "t", foldable())

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("assertion in C++")

    monkeypatch.setattr(onnxsim, "simplify", fails)
    with pytest.raises(StageError, match="assertion in C") as caught:
        simplified(tmp_path, tree)
    assert "simplifier=none" in caught.value.hint


def test_an_invalid_or_different_result_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = graphs.tree(tmp_path / "t", foldable())
    wrong = graphs.model([helper.make_node("NoSuchOp", ["x"], ["y"])])
    monkeypatch.setattr(onnxsim, "simplify", lambda *_, **__: (wrong, True))
    with pytest.raises(StageError, match="the simplified model is invalid") as caught:
        simplified(tmp_path, tree)
    assert "simplifier=none" in caught.value.hint
    other = graphs.chain()
    other.graph.input[0].name = "z"
    monkeypatch.setattr(onnxsim, "simplify", lambda *_, **__: (other, True))
    with pytest.raises(StageError, match="changed the inputs"):
        simplified(tmp_path, tree)
