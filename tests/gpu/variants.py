"""What the check's rows keep of a variant's ``manifest.json``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Json = dict[str, Any]

#: What a change of the engine alone must not run again.
BEFORE_THE_ENGINE: Final = frozenset(
    {"samples", "export", "simplify", "canonicalize", "cast", "quantize", "reference"}
)
_SUMMARY: Final = ("artifact_bytes", "max_error", "snr_db", "metric", "metric_reference", "p50_ms")
_AUDIT: Final = ("verdict", "reason", "compute", "storage", "unknown_share", "evidence")


def variant_row(manifest: Mapping[str, Any]) -> Json:
    """Return the row of one variant: how it was judged, audited, built and measured."""
    config = manifest["config"]
    summary = manifest["summary"]
    return {
        "model": config["model"]["name"],
        "precision": config["precision"]["name"],
        "calibration": config["calibration"]["method"],
        "status": manifest["status"],
        "failures": [failure["message"] for failure in manifest["failures"]],
        **{name: summary.get(name) for name in _SUMMARY},
        "audit": {name: values(manifest, "audit").get(name) for name in _AUDIT},
        "build": build_row(manifest),
        "measurements": list(measurements(manifest)),
        "beside": [entry["values"] for entry in manifest["actions"] if entry["stage"] == "beside"],
    }


def build_row(manifest: Mapping[str, Any]) -> Json:
    """Return what the engine's action cost, and what the worker says of it.

    ``action_s`` is the whole action; ``worker_s`` are the worker's own parts of it, in seconds.
    """
    entry = action(manifest, "refit") or action(manifest, "build")
    found = entry.get("values") or {}
    return {
        "stage": entry.get("stage"),
        "status": entry.get("status"),
        "action_s": entry.get("built_seconds"),
        "worker_s": found.get("seconds"),
        "timing_cache": found.get("timing_cache"),
        "command": manifest.get("command") or found.get("command"),
    }


def measurements(manifest: Mapping[str, Any]) -> Iterator[Json]:
    """Yield medians of each measured shape, with and without CUDA graph and transfers."""
    for found in values(manifest, "benchmark").get("measurements", []):
        yield {
            "point": found.get("point"),
            "shapes": found.get("shapes"),
            "cuda_graph": found.get("cuda_graph"),
            "transfers": found.get("transfers"),
            "event_p50_ms": (found.get("event") or {}).get("p50_ms"),
            "host_p50_ms": (found.get("host") or {}).get("p50_ms"),
            "host_p99_ms": (found.get("host") or {}).get("p99_ms"),
        }


def action(manifest: Mapping[str, Any], stage: str) -> Json:
    """Return the entry of the last action of *stage*; empty when the variant has none."""
    found = [dict(entry) for entry in manifest["actions"] if entry["stage"] == stage]
    return found[-1] if found else {}


def values(manifest: Mapping[str, Any], stage: str) -> Json:
    """Return the values of the last action of *stage*; empty when it did not run."""
    return dict(action(manifest, stage).get("values") or {})


def ran(manifests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the stages that ran for these variants, sorted."""
    entries = [entry for manifest in manifests for entry in manifest["actions"]]
    return sorted({entry["stage"] for entry in entries if entry["status"] == "ran"})
