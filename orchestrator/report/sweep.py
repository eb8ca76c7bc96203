"""The combined ``manifest.json`` of a sweep: its rules, its counts, and a line on each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orchestrator
from orchestrator.report.experiment import VariantResult
from orchestrator.report.manifest import SCHEMA, Entries, write_manifest

KIND: Final = "sweep"
_STATUSES: Final = ("passed", "failed", "interrupted")


def write_sweep(
    directory: Path,
    results: Sequence[VariantResult],
    *,
    started: float,
    matrix: Mapping[str, Any],
    actions: Mapping[str, int],
) -> None:
    """Write the manifest of a sweep, which may go on: a later call replaces it.

    Args:
        directory: The sweep's directory.
        results: Of all variants so far; their manifests hold no secrets.
        started: Unix time of the start.
        matrix: :attr:`orchestrator.config.composition.Announcement.rules` without secrets; empty
            where another sweeper chose the variants.
        actions: How many actions ended in each status.
    """
    content = build_sweep(directory, results, started, matrix, actions)
    write_manifest(directory, content, Entries())


def build_sweep(
    directory: Path,
    results: Sequence[VariantResult],
    started: float,
    matrix: Mapping[str, Any],
    actions: Mapping[str, int],
) -> dict[str, Any]:
    """Return the content of the manifest; arguments as of :func:`write_sweep`."""
    variants = [_variant(directory, result) for result in results]
    counts = {name: sum(one["status"] == name for one in variants) for name in _STATUSES}
    rules = dict(matrix)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "orchestrate": orchestrator.__version__,
        "started": started,
        "status": next((one for one in ("interrupted", "failed") if counts[one]), "passed"),
        "declared": bool(rules.get("declared")),
        "rules": rules.get("rules", []),
        "counts": {
            "combinations": rules.get("combinations", len(variants)),
            "collapsed": rules.get("collapsed", 0),
            "variants": rules.get("variants", len(variants)),
            **counts,
        },
        "actions": dict(actions),
        "variants": variants,
    }


def _variant(directory: Path, result: VariantResult) -> dict[str, Any]:
    place = result.directory
    within = place.is_relative_to(directory)
    return {
        "name": result.manifest["name"],
        "overrides": result.manifest["overrides"],
        "directory": str(place.relative_to(directory) if within else place),
        "status": result.manifest["status"],
        "failures": result.manifest["failures"],
        "summary": result.manifest["summary"],
    }
