"""One variant in one row: sizes, errors, accuracy, latency, precisions, status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_NAMES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of one variant; None where there is none.

    Attributes:
        interrupted: Ctrl-C ended the run before this variant was settled.
        artifact_bytes: Size of the runnable artifact.
        max_error: Largest absolute error over the spread of the reference, over all outputs.
        snr_db: Least signal-to-noise ratio over all outputs, in dB; None when exact or unknown.
        metric, metric_reference: Task metric of the artifact and of the PyTorch model.
        p50_ms: Median latency in milliseconds.
        beside: The same of what else ran the model on that device, by name.
        measured: Unix time of the measurement.
        storage, compute: Precisions as stored and as really executed.
    """

    name: str
    passed: bool
    interrupted: bool = False
    artifact_bytes: int | None = None
    max_error: float | None = None
    snr_db: float | None = None
    metric_name: str | None = None
    metric: float | None = None
    metric_reference: float | None = None
    p50_ms: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    throughput: float | None = None
    measured: float | None = None
    storage: str | None = None
    compute: str | None = None
    verdict: str | None = None


def summarize(
    name: str,
    *,
    passed: bool,
    interrupted: bool = False,
    values: Mapping[str, Mapping[str, Any]],
    size: int | None,
    metric: str | None,
) -> Summary:
    """Return the summary of a variant from the values of its steps, by role."""
    roles = ("judge engine", "judge session", "judge lowered", "judge onnx")
    judged = next((values[role] for role in roles if role in values), None)
    outputs = list((judged or {}).get("outputs", {}).values())
    errors = [entry["max_error"] for entry in outputs if entry.get("max_error") is not None]
    ratios = [entry["snr_db"] for entry in outputs if entry.get("snr_db") is not None]
    score, audit = values.get("score", {}), values.get("audit", {})
    benchmark = values.get("benchmark", {})
    return Summary(
        name=name,
        passed=passed,
        interrupted=interrupted,
        artifact_bytes=size,
        max_error=max(errors, default=None),
        snr_db=min(ratios, default=None),
        metric_name=metric if score else None,
        metric=score.get("artifact"),
        metric_reference=score.get("reference"),
        p50_ms=benchmark.get("p50_ms"),
        beside=_beside(values),
        throughput=benchmark.get("throughput"),
        measured=benchmark.get("measured_at"),
        storage=audit.get("storage_precision"),
        compute=_dominant(audit.get("compute_precision"), audit.get("compute", {})),
        verdict=audit.get("verdict"),
    )


def _beside(values: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found = {role.partition(" ")[2]: one for role, one in values.items() if role[:6] == "beside"}
    return {name: one["p50_ms"] for name, one in found.items() if one.get("p50_ms") is not None}


def _dominant(name: str | None, shares: Mapping[str, float]) -> str | None:
    """Return a precision, or for a mixed one the largest share: ``int8 84%``."""
    if name != "mixed" or not shares:
        return name
    first, share = max(shares.items(), key=lambda item: item[1])
    return f"{_NAMES.get(first, first)} {share:.0%}"
