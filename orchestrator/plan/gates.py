"""Verdicts: the configured tolerances applied to stored numbers. Free, and in no key."""

from __future__ import annotations

from typing import assert_never

from orchestrator.config.schema import Config, Tolerance
from orchestrator.errors import StageError
from orchestrator.numerics.verdict import judge_verdict, score_verdict
from orchestrator.plan.graph import Gate
from orchestrator.store.results import Result


def failures(gate: Gate, config: Config, result: Result) -> list[StageError]:
    """Return why *result* does not pass *gate*; empty when it does."""
    tolerance: Tolerance = getattr(config.compare, gate.precision)
    where = f"{gate.name} ({gate.precision})"
    match gate.check:
        case "judge":
            found = judge_verdict(
                result.values,
                tolerance,
                config.compare.min_variation,
                config.model.outputs,
                precision=gate.precision,
                keep_io=config.precision.keep_io or gate.precision == "fp32",
            )
        case "score":
            found = score_verdict(result.values, tolerance, precision=gate.precision)
        case "audit":
            verdict = result.values["verdict"]
            wrong = verdict == "refuted" or (config.audit.strict and verdict != "proved")
            text = result.values["reason"]
            said = text if verdict == "refuted" else f"{verdict}, and audit.strict is on: {text}"
            found = [said] if wrong else []
        case _:
            assert_never(gate.check)
    return [StageError(text, where=where) for text in found]
