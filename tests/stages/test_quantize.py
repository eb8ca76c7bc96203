from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from orchestrator.config.schema import Calibration, Precision
from orchestrator.errors import StageError
from orchestrator.graphs import files as onnx_files
from orchestrator.numerics.batches import Batch, write_batches
from orchestrator.numerics.tensorrt_qdq import check_tensorrt_qdq
from orchestrator.stages.quantize import STAGE
from tests.numerics.onnx_graphs import Array, images, residual_net, run, snr_db
from tests.stage_context import StageRun, run_stage


def quantize(
    tmp_path: Path,
    data: Array,
    method: str = "minmax",
    count: int = 64,
    model: onnx.ModelProto | None = None,
    **precision: Any,
) -> StageRun:
    number = len(list(tmp_path.glob("samples*")))
    samples, tree = tmp_path / f"samples{number}", tmp_path / f"onnx{number}"
    samples.mkdir()
    tree.mkdir()
    onnx_files.save(model or residual_net(), tree)
    starts = range(0, len(data), 16)
    write_batches(
        samples,
        (
            (
                Batch(file=f"{i:03}.npz", point="calibration", dims={"n": 16}, offset=i, items=16),
                {"x": data[i : i + 16]},
            )
            for i in starts
        ),
    )
    params = {
        "precision": Precision(**{"name": "int8", **precision}).model_dump(),
        "calibration": Calibration.model_validate({"method": method, "count": count}).model_dump(),
    }
    return run_stage(STAGE, tmp_path, params, {"onnx": tree, "samples": samples})


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_quantized_net_runs_from_its_tree(method: str, tmp_path: Path) -> None:
    ran = quantize(tmp_path, images(64), method)
    model = onnx_files.load(ran.outputs["onnx"])
    check_tensorrt_qdq(model)
    x = images(16, seed=1)
    for optimize in (True, False):
        found = run(model, {"x": x}, optimize=optimize)[0]
        assert snr_db(run(residual_net(), {"x": x})[0], found) > 20
    assert ran.values["quantized"]["Conv"] == 2
    assert ran.values["left"]["Tanh"] == 1
    assert ran.values["items"] == 64
    assert set(ran.values["thresholds"]) == {"x", "r1", "p2", "f3", "s4"}
    assert 0.9 < ran.values["thresholds"]["x"] <= 1.0


def test_fp8_runs_from_its_tree(tmp_path: Path) -> None:
    net = residual_net(opset=19, width=16)
    ran = quantize(tmp_path, images(64), model=net, name="fp8")
    model = onnx_files.load(ran.outputs["onnx"])
    check_tensorrt_qdq(model)
    x = images(16, seed=1)
    assert snr_db(run(net, {"x": x})[0], run(model, {"x": x}, optimize=False)[0]) > 20
    assert ran.values["quantized"] == {"Conv": 1, "Gemm": 1, "MatMul": 1}
    assert ran.values["without_kernel"] == 2
    [first] = [line for line in ran.log if line.startswith("'c1'")]
    assert "multiples of 16 channels in and out, its weight is [16, 1, 3, 3]" in first
    assert "without_kernel" not in quantize(tmp_path, images(16)).values
    with pytest.raises(StageError) as caught:
        quantize(tmp_path, images(16), name="fp8")
    assert caught.value.where == "exporter.opset"
    with pytest.raises(StageError, match="an fp8 array means nothing without its scale"):
        quantize(tmp_path, images(16), model=net, name="fp8", keep_io=False)


@pytest.mark.parametrize(("name", "method"), [("int8", "entropy"), ("fp8", "percentile")])
def test_same_input_same_bytes(name: str, method: str, tmp_path: Path) -> None:
    model = residual_net(opset=19, width=16)
    runs = [quantize(tmp_path, images(32), method, model=model, name=name) for _ in range(2)]
    first, second = (onnx_files.model_path(ran.outputs["onnx"]).read_bytes() for ran in runs)
    assert first == second
    assert runs[0].values == runs[1].values


def test_count_limits_the_items(tmp_path: Path) -> None:
    data = images(64)
    data[32:] *= 10
    assert quantize(tmp_path, data, count=32).values["thresholds"]["x"] <= 1.0
    ran = quantize(tmp_path, data, count=33)
    assert ran.values["items"] == 48
    assert ran.values["thresholds"]["x"] > 5.0


def test_scratch_holds_the_temporary_model(tmp_path: Path) -> None:
    ran = quantize(tmp_path, images(16))
    assert [path.name for path in ran.outputs["onnx"].iterdir()] == ["model.onnx"]


def test_refusals(tmp_path: Path) -> None:
    data = images(16)
    with pytest.raises(StageError) as caught:
        quantize(tmp_path, data, keep_io=False)
    assert caught.value.where == "precision.keep_io"
    with pytest.raises(StageError, match="nothing in this model can be quantized"):
        quantize(tmp_path, data, op_types=["LSTM"])
    with pytest.raises(StageError, match="NaN"):
        quantize(tmp_path, np.full_like(data, np.nan))
