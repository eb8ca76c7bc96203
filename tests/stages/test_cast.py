from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.widen import widen_bf16
from orchestrator.stages.cast import STAGE
from tests.numerics.onnx_graphs import f32, graph, images, residual_net, run, snr_db
from tests.stage_context import StageRun, run_stage

PRECISION = {"name": "fp16", "keep_io": True, "keep_op_types": [], "keep_nodes": []}


def cast(tmp_path: Path, model: onnx.ModelProto, **precision: Any) -> StageRun:
    tree = tmp_path / f"in{len(list(tmp_path.glob('in*')))}"
    tree.mkdir()
    onnx_files.save(model, tree)
    return run_stage(STAGE, tmp_path, {"precision": PRECISION | precision}, {"onnx": tree})


def test_cast_net_runs_from_its_tree(tmp_path: Path) -> None:
    ran = cast(tmp_path, residual_net())
    lowered = onnx_files.load(ran.outputs["onnx"])
    x = images(4)
    assert snr_db(run(residual_net(), {"x": x})[0], run(lowered, {"x": x})[0]) > 50
    assert ran.values["overflowed"] == 0
    assert ran.values["kept"] == {}
    assert ran.values["lowered"]["Conv"] == 2


def test_cast_to_bf16_runs_from_its_tree(tmp_path: Path) -> None:
    model = residual_net(opset=22)
    ran = cast(tmp_path, model, name="bf16", keep_nodes=["c2"])
    lowered = onnx_files.load(ran.outputs["onnx"])
    x = images(4)
    found = run(widen_bf16(lowered), {"x": x}, optimize=False)[0]
    assert snr_db(run(model, {"x": x})[0], found) > 40
    assert ran.values["kept"] == {"Conv": 1}
    assert ran.values["lowered"]["Conv"] == 1
    with pytest.raises(StageError) as caught:
        cast(tmp_path, residual_net(), name="bf16")
    assert caught.value.where == "exporter.opset"


def test_what_rounds_is_in_the_key() -> None:
    tools = {name: STAGE.tools_for({"precision": {"name": name}}) for name in ("fp16", "bf16")}
    assert set(tools["bf16"]) - set(tools["fp16"]) == {"ml_dtypes"}


@pytest.mark.parametrize(("name", "opset"), [("fp16", 17), ("bf16", 22)])
def test_same_input_same_bytes(name: str, opset: int, tmp_path: Path) -> None:
    model = residual_net(opset=opset)
    runs = [cast(tmp_path, model, name=name, keep_nodes=["y"]) for _ in range(2)]
    first, second = (onnx_files.model_path(ran.outputs["onnx"]).read_bytes() for ran in runs)
    assert first == second


def test_large_weights_stay_outside_the_file(tmp_path: Path) -> None:
    wave = f32(np.cos(np.arange(3000 * 3000) * 0.01).reshape(3000, 3000) / 1000)
    model = graph("g (float[1,3000] x) => (float[1,3000] y) { y = MatMul (x, w) }", w=wave)
    ran = cast(tmp_path, model)
    weights = ran.outputs["onnx"] / onnx_files.WEIGHTS
    assert weights.stat().st_size == 2 * wave.size
    lowered = onnx_files.load(ran.outputs["onnx"])
    x = f32(np.linspace(-1, 1, 3000)[None])
    np.testing.assert_allclose(run(lowered, {"x": x})[0], x @ wave, atol=5e-3)


def test_overflow_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    model = graph("g (float[1] x) => (float[1] y) { [big] y = Mul (x, w) }", w=f32([1e6]))
    with pytest.raises(StageError, match="'w'") as caught:
        cast(tmp_path, model)
    assert "precision.keep_nodes=['big']" in caught.value.hint
    assert not list((tmp_path / "cast-0" / "onnx").iterdir())
    ran = cast(tmp_path, model, keep_nodes=["big"])
    assert ran.values["overflowed"] == 1
    assert ran.values["kept"] == {"Mul": 1}


def test_vanished_epsilon_and_mask_are_logged(tmp_path: Path) -> None:
    model = graph(
        """g (float[2] x, bool[2] b) => (float[2] y) {
            a = Abs (x)  c = Add (a, tiny)  d = Div (x, c)  s = Where (b, low, d)
            y = Softmax (s)
        }""",
        tiny=f32(1e-12),
        low=f32(-1e9),
    )
    ran = cast(tmp_path, model)
    assert ran.values["flushed_scalars"] == ["tiny"]
    assert ran.values["sentinels"] == ["low"]
    assert any("'tiny' is zero in fp16" in line for line in ran.log)
    assert any("'low' means minus infinity and became ±65504" in line for line in ran.log)


def test_whole_numbers_that_change_are_logged(tmp_path: Path) -> None:
    model = graph("g (float[1] x) => (float[1] y) { y = Mul (x, w) }", opset=22, w=f32([641]))
    assert cast(tmp_path, model, name="fp16").log == []
    [line] = cast(tmp_path, model, name="bf16").log
    assert line.startswith("constant 'w' holds whole numbers that bf16 rounds")
    assert "exactly to 256" in line
