"""``manifest.json``: everything that happened to one variant, with a schema version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orchestrator
from orchestrator.errors import OrchestrateError
from orchestrator.executor.outcome import Finished, Outcome
from orchestrator.plan.graph import Step, Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.report.summary import Summary
from orchestrator.store.files import write_atomically

SCHEMA: Final = 1
NAME: Final = "manifest.json"


class Entries:
    """The actions of one run as its manifests tell them; variants share most, and their text."""

    def __init__(self) -> None:
        """Know none."""
        self._entries: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._texts: dict[int, str] = {}

    def entry(self, step: Step, status: str, finished: Finished) -> dict[str, Any]:
        """Return what a manifest says of one step; do not change it."""
        name = (step.role, step.action, status)
        if name not in self._entries:
            entry = self._entries[name] = _action(step, status, finished)
            self._texts[id(entry)] = json.dumps(entry)
        return self._entries[name]

    def text(self, item: Any) -> str:
        """Return *item* as JSON."""
        return self._texts.get(id(item)) or json.dumps(item)


def build_manifest(
    variant: Variant,
    outcome: Outcome,
    summary: Summary,
    statuses: Mapping[str, str],
    artifacts: Mapping[str, str],
    *,
    secrets: Secrets,
    started: float,
    entries: Entries,
) -> dict[str, Any]:
    """Return the manifest of one variant.

    Args:
        variant: The variant with its chain.
        outcome: What became of all actions.
        summary: The variant's row.
        statuses: Status of each action as seen by this variant, by action id.
        artifacts: Tree digest of each artifact.
        secrets: What must not be written down.
        started: Unix time of the run's start.
        entries: Those of the same run.
    """
    failures = outcome.failures.get(variant.index, [])
    content = {
        "schema": SCHEMA,
        "orchestrate": orchestrator.__version__,
        "name": variant.name,
        "overrides": variant.overrides,
        "started": started,
        "status": _status(variant, outcome),
        "failures": [_error(error) for error in failures],
        "actions": [
            entries.entry(step, statuses[step.action], outcome.finished[step.action])
            for step in variant.steps
        ],
        "gates": [
            {"name": gate.name, "check": gate.check, "precision": gate.precision}
            for gate in variant.gates
        ],
        "summary": asdict(summary),
        "artifacts": dict(artifacts),
        "command": variant.command or None,
        "config": variant.config.model_dump(mode="json"),
    }
    hidden: dict[str, Any] = secrets.hide(content)
    return hidden


def write_manifest(directory: Path, content: Mapping[str, Any], entries: Entries) -> None:
    """Write the manifest of an experiment directory; the store has all it takes to write it again.

    Top-level keys, and the items of top-level lists, have a line each: it can be read, and
    compared with ``diff``.
    """
    lines = [f" {json.dumps(key)}: {_item(value, entries)}" for key, value in content.items()]
    write_atomically(directory / NAME, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _item(value: Any, entries: Entries) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {entries.text(one)}" for one in value) + "\n ]"


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of an experiment directory.

    Raises:
        OrchestrateError: there is none, or it is damaged or of a newer schema.
    """
    path = directory / NAME
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        schema = found["schema"]
    except FileNotFoundError:
        raise OrchestrateError(
            "this is no experiment directory (it has no manifest.json)",
            where=str(directory),
            hint="give a directory that 'orchestrate build' made, below outputs/",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OrchestrateError(f"the manifest cannot be read: {exc}", where=str(path)) from exc
    if found.get("kind") == "sweep":
        names = [str(one["directory"]) for one in found.get("variants", [])]
        raise OrchestrateError(
            f"this is a sweep with {len(names)} variants, not one experiment",
            where=str(directory),
            hint=f"name one of them, such as {directory / names[0]}" if names else "",
        )
    if schema > SCHEMA:
        raise OrchestrateError(
            f"the manifest has schema {schema}, this version reads up to {SCHEMA}",
            where=str(path),
            hint="upgrade orchestrate",
        )
    return found


def _status(variant: Variant, outcome: Outcome) -> str:
    if variant.index in outcome.failures:
        return "failed"
    unfinished = any(outcome.finished[step.action].result is None for step in variant.steps)
    return "interrupted" if unfinished else "passed"


def _action(step: Step, status: str, finished: Finished) -> dict[str, Any]:
    result = finished.result
    entry: dict[str, Any] = {
        "role": step.role,
        "stage": step.stage,
        "status": status,
        "key": result.key if result else finished.key or None,
        "seconds": round(finished.seconds, 4),
        "retries": finished.retries,
        "remembered": finished.remembered,
        "built_seconds": round(result.seconds, 4) if result else None,
        "peak_bytes": result.peak_bytes if result else None,
        "created": result.created if result else None,
        "tools": dict(result.tools) if result else {},
        "outputs": dict(result.outputs) if result else {},
        "values": dict(result.values) if result else {},
    }
    if finished.error is not None:
        entry["error"] = _error(finished.error)
    return entry


def _error(error: OrchestrateError) -> dict[str, str]:
    return {
        "kind": type(error).__name__,
        "where": error.where,
        "message": error.message,
        "hint": error.hint,
    }
