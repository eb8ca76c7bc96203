from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from orchestrator.backends.base import Observed, Weight, Work
from orchestrator.config.schema import Precision
from orchestrator.numerics.precision import audit_values
from orchestrator.stages import audit, build
from tests.backends import nets
from tests.stage_context import run_stage


def _audit(
    tmp_path: Path, model: onnx.ModelProto, asked: str, *shape: int, level: str = "all"
) -> dict[str, Any]:
    target = {**nets.TARGET, "optimization_level": level}
    tree = nets.save(model, tmp_path / "onnx")
    session = run_stage(build.STAGE, tmp_path, {"target": target}, {"onnx": tree})
    samples = nets.samples(tmp_path / "samples", *shape)
    return run_stage(
        audit.STAGE,
        tmp_path,
        {"target": target, "precision": Precision(name=asked).model_dump()},  # type: ignore[arg-type]
        {"model": session.outputs["session"], "samples": samples},
    ).values


@pytest.mark.parametrize("level", ["all", "extended", "none"])
def test_fp32_is_proved_and_all_its_work_is_seen(tmp_path: Path, level: str) -> None:
    values = _audit(tmp_path, nets.conv_net(), "fp32", 16, 8, 8, level=level)
    assert values["verdict"] == "proved"
    assert (values["storage_precision"], values["compute_precision"]) == ("fp32", "fp32")
    conv = 2 * 64 * 32 * 16 * 9 + 2 * 64 * 32 * 32 * 9
    gemm = 2 * 10 * 32
    assert values["compute_by_op"]["Conv"]["float32"] == pytest.approx(
        conv / (conv + gemm), abs=1e-3
    )
    assert set(values["compute_by_op"]) == {"Conv", "Gemm"}


def test_fp16_on_the_cpu_is_stored_in_fp16_and_what_it_computes_in_is_said(tmp_path: Path) -> None:
    values = _audit(tmp_path, nets.conv_net(half=True), "fp16", 16, 8, 8)
    assert values["verdict"] == "proved"
    assert values["storage_precision"] == "fp16"
    if values["compute"].get("float32", 0) > 0.5:  # every CPU without fp16 kernels, x86 included
        assert values["compute_precision"] != "fp16"
        assert "on this CPU in fp32, between casts" in values["reason"]


def test_a_silent_fp32_model_is_refuted_as_fp16_and_as_int8(tmp_path: Path) -> None:
    for asked in ("fp16", "int8"):
        values = _audit(tmp_path / asked, nets.conv_net(), asked, 16, 8, 8)
        assert values["verdict"] == "refuted"
        assert f"asked {asked}, but weights are stored as fp32 100.0%" in values["reason"]


def test_a_reduced_model_is_refuted_as_fp32(tmp_path: Path) -> None:
    half = _audit(tmp_path / "half", nets.conv_net(half=True), "fp32", 16, 8, 8)
    quantized = _audit(tmp_path / "int8", nets.qdq_matmul_net(), "fp32", 8)
    assert [half["verdict"], quantized["verdict"]] == ["refuted", "refuted"]


def test_a_quantized_matmul_computes_in_int8(tmp_path: Path) -> None:
    values = _audit(tmp_path, nets.qdq_matmul_net(), "int8", 8)
    assert values["verdict"] == "proved"
    assert values["weights"] == {"int8": 1.0}
    assert values["compute"] == {"int8": 1.0}


def test_unfused_it_is_stored_in_int8_and_computes_in_fp32(tmp_path: Path) -> None:
    values = _audit(tmp_path, nets.qdq_matmul_net(), "int8", 8, level="none")
    assert values["verdict"] == "proved"
    assert (values["storage_precision"], values["compute_precision"]) == ("int8", "fp32")
    assert "fp32" in values["reason"]


def test_weights_quantized_on_the_fly_are_not_stored_in_int8(tmp_path: Path) -> None:
    model = nets.qdq_matmul_net(stored_as_int8=False)
    assert _audit(tmp_path / "a", model, "int8", 8, level="none")["verdict"] == "refuted"
    assert _audit(tmp_path / "b", model, "int8", 8, level="basic")["verdict"] == "proved"


def _observed(*weights: Weight, dtype: str = "int8") -> Observed:
    return Observed(
        weights=weights, work=[Work(name="n", op="Conv", dtype=dtype, flops=8, time_us=1)]
    )


def _weight(name: str, dtype: str, nbytes: int, op: str = "Conv") -> Weight:
    return Weight(name=name, dtype=dtype, nbytes=nbytes, consumers=(op,), nodes=(f"node_{name}",))


def test_what_the_user_kept_in_fp32_is_not_held_against_the_precision() -> None:
    observed = _observed(
        _weight("a", "int8", 10), _weight("b", "float32", 90), _weight("c", "float32", 90, "LSTM")
    )
    asked = Precision(name="int8").model_dump()
    assert audit_values(observed, asked)["verdict"] == "refuted"
    assert audit_values(observed, {"name": "int8"})["weights"]["float32"] == pytest.approx(
        18 / 19, abs=1e-3
    )
    assert audit_values(observed, {**asked, "keep_nodes": ["node_b"]})["verdict"] == "proved"


def test_half_a_precision_is_undetermined_and_names_the_weights() -> None:
    observed = _observed(_weight("a", "int8", 70), _weight("b", "float32", 30))
    values = audit_values(observed, Precision(name="int8").model_dump())
    assert values["verdict"] == "undetermined"
    assert "'b' (float32)" in values["reason"]
    assert values["storage_precision"] == "mixed"


def test_a_model_without_weights_and_work_of_unknown_type_are_undetermined() -> None:
    table = Weight(name="table", dtype="float32", nbytes=100)
    values = audit_values(_observed(table), Precision(name="int8").model_dump())
    assert values["verdict"] == "undetermined"
    observed = _observed(_weight("a", "float32", 70), dtype="unknown")
    assert audit_values(observed, Precision(name="fp32").model_dump())["verdict"] == "undetermined"
