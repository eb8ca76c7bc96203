"""What a search gets of a variant: its numbers, or why there are none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.objective import Objective
from orchestrator.errors import OrchestrateError, StageError
from orchestrator.report.experiment import VariantResult
from orchestrator.report.objective import FailedTrialError, trial_value
from orchestrator.report.summary import Summary

NUMBERS: dict[str, Any] = {
    "artifact_bytes": 1000,
    "max_error": 0.5,
    "snr_db": 30.0,
    "metric": 0.97,
    "metric_reference": 0.98,
    "p50_ms": 2.0,
    "throughput": 8.0,
}


def result(
    *, failures: tuple[OrchestrateError, ...] = (), interrupted: bool = False, **numbers: Any
) -> VariantResult:
    passed = not failures and not interrupted
    return VariantResult(
        name="precision=int8",
        passed=passed,
        interrupted=interrupted,
        directory=Path("variant"),
        summary=Summary(name="precision=int8", passed=passed, **{**NUMBERS, **numbers}),
        failures=failures,
        notes=(),
        manifest={"actions": [{"role": "benchmark", "values": {"p50_ms": 2.0, "p99_ms": 3.0}}]},
    )


def objective(value: str | list[str], **limits: dict[str, float]) -> Objective:
    return Objective.model_validate({"value": value, "limits": limits})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p50_ms", 2.0),
        ("p99_ms", 3.0),
        ("throughput", 8.0),
        ("artifact_bytes", 1000),
        ("max_error", 0.5),
        ("snr_db", 30.0),
        ("metric", 0.97),
        ("task_drop", pytest.approx(0.01)),
    ],
)
def test_every_number_is_the_variant_s_own(name: str, value: float) -> None:
    assert trial_value(result(), objective(name)) == value


def test_several_are_in_the_order_asked_for() -> None:
    assert trial_value(result(), objective(["max_error", "p50_ms"])) == (0.5, 2.0)
    assert trial_value(result(), objective(["p50_ms"])) == 2.0


def test_what_does_not_differ_has_an_infinite_signal_to_noise_ratio() -> None:
    exact = result(max_error=0.0, snr_db=None)

    assert trial_value(exact, objective("snr_db", snr_db={"min": 100.0})) == math.inf


def test_a_value_on_its_limit_is_within() -> None:
    # 0.98 - 0.97 is a little more than 0.01 in binary
    assert trial_value(result(), objective("p50_ms", task_drop={"max": 0.01})) == 2.0


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"task_drop": {"max": 0.005}}, "task_drop is 0.01, more than 0.005 (objective.limits."),
        ({"snr_db": {"min": 40.0}}, "snr_db is 30, less than 40 (objective.limits.snr_db.min)"),
        ({"p90_ms": {"max": 1.0}}, "has no p90_ms, which objective.limits.p90_ms limits"),
    ],
)
def test_beyond_a_limit_there_is_no_value(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(FailedTrialError) as caught:
        trial_value(result(), objective("p50_ms", **limits))

    assert says in caught.value.message
    assert caught.value.where == "precision=int8"


def test_without_the_number_there_is_no_value() -> None:
    with pytest.raises(FailedTrialError, match=r"has no p50_ms, which objective\.value names"):
        trial_value(result(p50_ms=None), objective(["max_error", "p50_ms"]))


def test_a_variant_that_failed_says_why_whatever_numbers_it_has() -> None:
    failure = StageError("is too far off")
    with pytest.raises(StageError) as caught:
        trial_value(result(failures=(failure,)), objective("p50_ms"))

    assert caught.value is failure
    with pytest.raises(FailedTrialError, match="ended before"):
        trial_value(result(interrupted=True), objective("p50_ms"))
