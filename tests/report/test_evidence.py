"""What is shown where the audit could not determine a precision."""

from __future__ import annotations

from typing import Any

from orchestrator.plan.graph import Variant
from orchestrator.report.evidence import evidence
from tests.config.compose import checked

MIB = 1 << 20
DOUBT = {"verdict": "undetermined", "reason": "one region", "plan_bytes": 45 * MIB}
Values = dict[str, dict[str, Any]]


def variant(index: int, *overrides: str) -> Variant:
    config = checked("target=tensorrt", *overrides)
    return Variant(index=index, name=str(index), config=config, overrides=list(overrides))


HALF, TF32 = variant(0, "precision=fp16"), variant(1, "precision=tf32")


def said(values: dict[int, Values], *peers: Variant) -> str:
    return evidence(HALF, [HALF, *peers], lambda one: values[one.index])


def test_a_determined_precision_needs_no_evidence() -> None:
    for verdict in ("proved", "refuted"):
        assert said({0: {"audit": {**DOUBT, "verdict": verdict}}}) == ""
    assert said({0: {}}) == ""


def test_sizes_and_the_speed_of_the_tf32_build_are_shown() -> None:
    audit = {**DOUBT, "fp32_bytes": 90 * MIB}
    values: dict[int, Values] = {
        0: {"audit": audit, "benchmark": {"p50_ms": 0.5}},
        1: {"benchmark": {"p50_ms": 1.0}},
    }

    assert said(values, TF32) == (
        "precision undetermined: one region; the plan takes 45.0 MiB, the model's weights 90.0 MiB "
        "in fp32; it runs at 2.00 times the speed of the tf32 build"
    )
    assert "tf32 build" not in said(values)


def test_another_engine_is_no_tf32_build_of_this_one() -> None:
    other = variant(1, "precision=tf32", "target.workspace_mib=64")
    values: dict[int, Values] = {
        0: {"audit": DOUBT, "benchmark": {"p50_ms": 0.5}},
        1: {"benchmark": {"p50_ms": 1.0}},
    }

    assert said(values, other) == "precision undetermined: one region"
