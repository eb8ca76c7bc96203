"""Writes one variant's experiment directory: ``.hydra/``, manifest, links, logs; and pins it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.compose import Composed
from orchestrator.errors import OrchestrateError
from orchestrator.executor.outcome import Outcome
from orchestrator.executor.server import LOG_NAME
from orchestrator.plan.graph import Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import link_artifacts, save_hydra, write_logs
from orchestrator.report.manifest import build_manifest, write_manifest
from orchestrator.report.summary import Summary, summarize
from orchestrator.store.collection import pin
from orchestrator.store.store import Store, explained


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """What became of one variant.

    Attributes:
        name: As in the table.
        passed: It was built, and every gate was passed.
        interrupted: Ctrl-C ended the run before this variant was settled.
        directory: Its experiment directory.
        summary: Its row in the table.
        failures: Why it failed.
        manifest: The content of its ``manifest.json``.
    """

    name: str
    passed: bool
    interrupted: bool
    directory: Path
    summary: Summary
    failures: Sequence[OrchestrateError]
    manifest: dict[str, Any]


def write_experiment(  # noqa: PLR0917  # one call, in session.py
    variant: Variant,
    composed: Composed,
    outcome: Outcome,
    statuses: Mapping[str, str],
    directory: Path,
    store: Store,
    secrets: Secrets,
    started: float,
) -> VariantResult:
    """Fill *directory* and return the variant's result.

    Raises:
        StoreError: the disk is full or read-only.
    """
    finished = {step.role: outcome.finished[step.action] for step in variant.steps}
    artifacts = {
        name: outcome.finished[ref.action].result.outputs[ref.output]  # type: ignore[union-attr]
        for name, ref in variant.artifacts.items()
        if outcome.finished[ref.action].result is not None
    }
    failures = outcome.failures.get(variant.index, [])
    complete = all(one.result is not None for one in finished.values())
    passed = complete and not failures
    session = artifacts.get("session")
    summary = summarize(
        variant.name,
        passed=passed,
        values={role: one.result.values for role, one in finished.items() if one.result},
        size=store.trees.size(session) if session else None,
        metric=variant.config.model.task.metric if variant.config.model.task else None,
    )
    manifest = build_manifest(variant, outcome, summary, statuses, artifacts, secrets, started)
    logs = {
        role: one.log or _stored_log(store, one.result.log if one.result else "")
        for role, one in finished.items()
    }
    with explained(directory):
        pin(store, directory, artifacts.values())
        save_hydra(directory, composed.config, variant.overrides)
        link_artifacts(
            directory, {name: store.trees.path(digest) for name, digest in artifacts.items()}
        )
        write_logs(directory, {role: text for role, text in logs.items() if text})
        write_manifest(directory, manifest)
    return VariantResult(
        name=variant.name,
        passed=passed,
        interrupted=not complete and not failures,
        directory=directory,
        summary=summary,
        failures=list(failures),
        manifest=manifest,
    )


def _stored_log(store: Store, digest: str) -> str:
    if not digest:
        return ""
    try:
        return (store.trees.path(digest) / LOG_NAME).read_text(errors="replace")
    except OSError:
        return ""
