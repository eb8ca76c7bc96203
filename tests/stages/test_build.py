from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from orchestrator.errors import StageError
from orchestrator.numerics.batches import read_batches
from orchestrator.stages import build, run
from tests.backends import nets
from tests.stage_context import run_stage


def _built(tmp_path: Path, tree: Path, level: str = "all") -> Path:
    target = {**nets.TARGET, "optimization_level": level}
    done = run_stage(build.STAGE, tmp_path, {"target": target}, {"onnx": tree})
    session = done.outputs["session"]
    size = sum(path.stat().st_size for path in session.rglob("*") if path.is_file())
    assert done.values == {"bytes": size}
    return session


@pytest.mark.parametrize("level", ["all", "extended", "basic", "none"])
def test_the_session_computes_what_the_model_does(tmp_path: Path, level: str) -> None:
    tree = nets.save(nets.conv_net(), tmp_path / "onnx")
    session = _built(tmp_path, tree, level)
    samples = nets.samples(tmp_path / "samples", 16, 8, 8)
    found = []
    for model, target in (
        (tree, nets.AS_IT_STANDS),
        (session, {**nets.TARGET, "optimization_level": level}),
    ):
        done = run_stage(
            run.STAGE,
            tmp_path,
            {"target": target, "outputs": ["y"]},
            {"model": model, "samples": samples},
        )
        found.append([arrays["y"] for _, arrays in read_batches(done.outputs["outputs"])])
    for plain, optimized in zip(*found, strict=True):
        np.testing.assert_allclose(plain, optimized, rtol=1e-4, atol=1e-4)


def test_the_level_decides_what_is_fused(tmp_path: Path) -> None:
    tree = nets.save(nets.conv_net(), tmp_path / "onnx")
    nodes = {}
    for level in ("none", "extended"):
        model = onnx.load(_built(tmp_path, tree, level) / "model.onnx")
        nodes[level] = [node.op_type for node in model.graph.node]
    assert "Relu" in nodes["none"]
    assert "FusedConv" in nodes["extended"]


def test_fp16_weights_stay_fp16_in_the_file(tmp_path: Path) -> None:
    """By itself ONNX Runtime widens them in the file at level `all`, and doubles its size."""
    tree = nets.save(nets.conv_net(half=True), tmp_path / "onnx")
    model = onnx.load(_built(tmp_path, tree) / "model.onnx")
    large = {i.name: i.data_type for i in model.graph.initializer if np.prod(i.dims) > 100}
    assert large
    assert set(large.values()) == {TensorProto.FLOAT16}


def test_large_weights_are_written_beside_the_graph(tmp_path: Path) -> None:
    tree = nets.save(nets.matmul_net(2100), tmp_path / "onnx")  # 17.6 MB of weights
    session = _built(tmp_path, tree)
    assert (session / "model.onnx").stat().st_size < 100_000
    assert (session / "weights" / "weights.bin").stat().st_size >= 2100 * 2100 * 4
    stored = (session / "weights").rename(tmp_path / "stored")
    (session / "weights").symlink_to(stored)  # as the store links it
    samples = nets.samples(tmp_path / "samples", 2100)
    params = {"target": nets.TARGET, "outputs": ["y"]}
    run_stage(run.STAGE, tmp_path, params, {"model": session, "samples": samples})


def test_a_missing_kernel_names_node_and_operator(tmp_path: Path) -> None:
    model = nets.one_node_net("BitShift", TensorProto.UINT16, direction="LEFT")
    tree = nets.save(model, tmp_path / "onnx")
    with pytest.raises(StageError, match=r"node 'broken': .*no CPU kernel for BitShift \(opset 11"):
        _built(tmp_path, tree)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    model = nets.one_node_net("Add", TensorProto.FLOAT)
    model.graph.node[0].op_type = "Frobnicate"
    tree = tmp_path / "onnx"
    tree.mkdir()
    onnx.save(model, tree / "model.onnx")
    with pytest.raises(StageError, match=r"node 'broken': .*Frobnicate.*No Op registered") as info:
        _built(tmp_path, tree)
    assert "/onnxruntime_src" not in str(info.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    tree = nets.save(nets.matmul_net(), tmp_path / "onnx")
    data = (tree / "model.onnx").read_bytes()
    (tree / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(StageError, match="is no ONNX model, or is truncated"):
        _built(tmp_path, tree)
