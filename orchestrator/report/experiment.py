"""Writes one variant's experiment directory: ``.hydra/``, manifest, links and logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config.composition import Point
from orchestrator.errors import OrchestrateError
from orchestrator.executor.outcome import Outcome
from orchestrator.executor.server import LOG_NAME
from orchestrator.plan.graph import Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import link_artifacts, write_logs
from orchestrator.report.evidence import evidence
from orchestrator.report.manifest import Entries, build_manifest, write_manifest
from orchestrator.report.objective import numbers, violations
from orchestrator.report.summary import Summary, summarize
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
        notes: What a reader should know besides: see :attr:`Variant.notes`, what the actions have
            noted, evidence for a precision that the audit could not determine, and which limits
            of the objective it is beyond.
        manifest: The content of its ``manifest.json``.
    """

    name: str
    passed: bool
    interrupted: bool
    directory: Path
    summary: Summary
    failures: Sequence[OrchestrateError]
    notes: Sequence[str]
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all variants of one run share.

    Attributes:
        started: Unix time of the run's start.
        logs: Stored logs that were read, by the digest of their tree: variants share most.
        entries: What manifests say of the actions.
    """

    variants: Sequence[Variant]
    outcome: Outcome
    store: Store
    secrets: Secrets
    started: float
    logs: dict[str, str] = field(default_factory=dict)
    entries: Entries = field(default_factory=Entries)


def write_experiment(
    run: Run,
    variant: Variant,
    point: Point,
    statuses: Mapping[str, str],
    directory: Path,
) -> VariantResult:
    """Fill *directory*, whose artifacts are pinned, and return the variant's result.

    Raises:
        StoreError: the disk is full or read-only.
    """
    artifacts = artifacts_of(variant, run.outcome)
    summary = _summary(run, variant, artifacts)
    doubt = evidence(variant, run.variants, lambda one: _values(run, one))
    told = [note for values in _values(run, variant).values() for note in values.get("notes", ())]
    beyond = _beyond_limits(run, variant, summary)
    notes = [*variant.notes, *dict.fromkeys(told), *([doubt] if doubt else []), *beyond]
    with explained(directory):
        saved = point.save(directory)
        manifest = {
            **build_manifest(
                variant,
                run.outcome,
                summary,
                statuses,
                artifacts,
                secrets=run.secrets,
                started=run.started,
                entries=run.entries,
            ),
            "hydra": saved.name,
            "notes": run.secrets.hide(notes),
        }
        link_artifacts(
            directory, {name: run.store.trees.path(digest) for name, digest in artifacts.items()}
        )
        write_logs(directory, _logs(run, variant))
        write_manifest(directory, manifest, run.entries)
    return VariantResult(
        name=variant.name,
        passed=summary.passed,
        interrupted=summary.interrupted,
        directory=directory,
        summary=summary,
        failures=list(run.outcome.failures.get(variant.index, [])),
        notes=manifest["notes"],
        manifest=manifest,
    )


def _beyond_limits(run: Run, variant: Variant, summary: Summary) -> list[str]:
    """Say which limits of the objective a variant that passed is beyond."""
    if not summary.passed:
        return []
    benchmark = _values(run, variant).get("benchmark", {})
    return violations(numbers(summary, benchmark), variant.config.objective)


def artifacts_of(variant: Variant, outcome: Outcome) -> dict[str, str]:
    """Return the tree digest of each artifact that was made."""
    results = {
        name: (outcome.finished[ref.action].result, ref.output)
        for name, ref in variant.artifacts.items()
    }
    return {
        name: result.outputs[output]
        for name, (result, output) in results.items()
        if result is not None
    }


def _summary(run: Run, variant: Variant, artifacts: Mapping[str, str]) -> Summary:
    results = {step.role: run.outcome.finished[step.action].result for step in variant.steps}
    complete = all(result is not None for result in results.values())
    failed = bool(run.outcome.failures.get(variant.index))
    built = artifacts.get(variant.artifact)
    return summarize(
        variant.name,
        passed=complete and not failed,
        interrupted=not complete and not failed,
        values=_values(run, variant),
        size=run.store.trees.size(built) if built else None,
        metric=variant.config.model.task.metric if variant.config.model.task else None,
    )


def _values(run: Run, variant: Variant) -> dict[str, Mapping[str, Any]]:
    """Return the values of each step that has a result, by role."""
    results = {step.role: run.outcome.finished[step.action].result for step in variant.steps}
    return {role: result.values for role, result in results.items() if result}


def _logs(run: Run, variant: Variant) -> dict[str, str]:
    """Return the log of each role that wrote one."""
    finished = {step.role: run.outcome.finished[step.action] for step in variant.steps}
    logs = {
        role: one.log or _stored_log(run, one.result.log if one.result else "")
        for role, one in finished.items()
    }
    return {role: text for role, text in logs.items() if text}


def _stored_log(run: Run, digest: str) -> str:
    if digest and digest not in run.logs:
        path = run.store.trees.path(digest) / LOG_NAME
        with suppress(OSError):
            run.logs[digest] = path.read_text(encoding="utf-8", errors="replace")
    return run.logs.get(digest, "")
