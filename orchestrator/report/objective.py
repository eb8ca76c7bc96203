"""What a sweeper that searches gets of a variant: the numbers of its objective, or why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from orchestrator.config.objective import NUMBERS, Limit, Objective
from orchestrator.errors import OrchestrateError
from orchestrator.report.summary import Summary

if TYPE_CHECKING:
    from orchestrator.report.experiment import VariantResult

_ROUNDING: Final = 1e-9  # 0.98 - 0.97 is a little more than 0.01 in binary


class FailedTrialError(OrchestrateError):
    """A variant was built, but has no value for a search: beyond a limit, or without a number."""


def trial_value(result: VariantResult, objective: Objective) -> float | tuple[float, ...]:
    """Return the value of a trial: a number, or several in the order of ``objective.value``.

    Raises:
        OrchestrateError: the first failure of a variant that failed; ``FailedTrialError`` where it
            was interrupted, is beyond a limit, or lacks a number.
    """
    if result.failures:
        raise result.failures[0]
    if result.interrupted:
        raise FailedTrialError("the run ended before it was built", where=result.name)
    found = numbers(result.summary, _benchmark(result.manifest))
    beyond = violations(found, objective)
    if beyond:
        raise FailedTrialError("; ".join(beyond), where=result.name)
    values = tuple(value for name in objective.names if (value := found[name]) is not None)
    if len(values) < len(objective.names):
        lacking = [name for name in objective.names if found[name] is None]
        text = f"has no {', '.join(lacking)}, which objective.value names"
        raise FailedTrialError(text, where=result.name)
    return values if len(values) > 1 else values[0]


def violations(found: Mapping[str, float | None], objective: Objective) -> list[str]:
    """Return a sentence for each limit that *found*, of :func:`numbers`, does not keep to."""
    texts = [_violation(name, found[name], one) for name, one in objective.limits.items()]
    return [text for text in texts if text]


def numbers(summary: Summary, benchmark: Mapping[str, Any]) -> dict[str, float | None]:
    """Return all numbers that an objective may name; None where one is not known.

    ``task_drop`` is the task metric of the PyTorch model minus the artifact's; ``snr_db`` is
    infinite where nothing differs.

    Args:
        summary: The variant's row.
        benchmark: The values of its benchmark; empty when there was none.
    """
    found = {
        "p50_ms": summary.p50_ms,
        "p90_ms": benchmark.get("p90_ms"),
        "p99_ms": benchmark.get("p99_ms"),
        "throughput": summary.throughput,
        "artifact_bytes": summary.artifact_bytes,
        "max_error": summary.max_error,
        "snr_db": math.inf if summary.max_error == 0 else summary.snr_db,
        "metric": summary.metric,
        "task_drop": _drop(summary),
    }
    return {name: found[name] for name in NUMBERS}


def _benchmark(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    entries: list[Mapping[str, Any]] = manifest["actions"]
    return next((one["values"] for one in entries if one["role"] == "benchmark"), {})


def _drop(summary: Summary) -> float | None:
    if summary.metric is None or summary.metric_reference is None:
        return None
    return summary.metric_reference - summary.metric


def _violation(name: str, value: float | None, limit: Limit) -> str:
    key = f"objective.limits.{name}"
    if value is None:
        return f"has no {name}, which {key} limits"
    if limit.max is not None and value > limit.max + _ROUNDING:
        return f"{name} is {value:.6g}, more than {limit.max:g} ({key}.max)"
    if limit.min is not None and value < limit.min - _ROUNDING:
        return f"{name} is {value:.6g}, less than {limit.min:g} ({key}.min)"
    return ""
