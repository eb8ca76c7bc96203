"""Composes overrides, or recalls what they composed to, and runs them in a session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config.remembered import Request, recall
from orchestrator.errors import OrchestrateError, StoreError
from orchestrator.session import LOGGER, Session
from orchestrator.store.index import Index
from orchestrator.store.store import default_directory

if TYPE_CHECKING:
    from orchestrator.config.batch import Batch, VariantReturn
    from orchestrator.config.composition import Composition
    from orchestrator.config.objective import Objective
    from orchestrator.report.experiment import VariantResult


def run(
    session: Session,
    overrides: Sequence[str],
    *,
    multirun: bool,
    config_dir: str | Path | None = None,
    config_name: str | None = None,
) -> None:
    """Compose *overrides* and run them in *session*.

    Raises:
        ConfigError, PlanError, StoreError: as of :func:`orchestrator.api.build`.
    """
    from orchestrator.config.batch import BatchTask
    from orchestrator.config.compose import Composer
    from orchestrator.config.typed import composition

    def task(batch: Batch) -> list[VariantReturn]:
        composed = composition(batch)
        return _returned(session, composed, session.run(composed))

    with Composer(_path(config_dir), config_name) as composer:
        composer.run(overrides, BatchTask(run=task), multirun=multirun)


def run_remembering(
    session: Session,
    overrides: Sequence[str],
    *,
    multirun: bool,
    config_dir: str | None = None,
    config_name: str | None = None,
    fresh: bool = False,
) -> None:
    """As :func:`run`, in a process of its own: what composed before is recalled, without Hydra.

    Args:
        session: Runs what is composed.
        overrides: Hydra overrides.
        multirun: Comma-separated values make a sweep.
        config_dir: A directory of configurations that comes first.
        config_name: Another primary configuration.
        fresh: Compose anew, and remember that.

    Raises:
        ConfigError, PlanError, StoreError: as of :func:`orchestrator.api.build`.
    """
    request = Request.of(
        overrides, multirun=multirun, config_dir=config_dir, config_name=config_name
    )
    with ExitStack() as until:
        index = _index()
        until.callback(index.close)
        found = None if fresh else recall(request, index, until)
        if found is None:
            _run_recorded(session, request, _path(config_dir), index)
        else:
            session.run(found)


def _index() -> Index:
    """Return what remembers compositions; nothing does for a user without a home directory."""
    try:
        return Index(default_directory() / "index")
    except StoreError:  # the configuration may name another place for the store
        return Index(None)


def _run_recorded(session: Session, request: Request, directory: Path | None, index: Index) -> None:
    from orchestrator.config.batch import BatchTask
    from orchestrator.config.recording import RecordingComposer
    from orchestrator.config.remember import remember
    from orchestrator.config.typed import composition

    def task(batch: Batch) -> list[VariantReturn]:
        composed = composition(batch)
        doubt = remember(request, composer, batch, composed, index)
        found = session.run(composed)
        if doubt:
            LOGGER.info("composed anew every time: %s", doubt)
        return _returned(session, composed, found)

    with RecordingComposer(directory, request.config_name) as composer:
        composer.run(
            request.overrides,
            BatchTask(run=task, settling=composer.recording.strict),
            multirun=request.multirun,
        )


def _returned(
    session: Session, composed: Composition, results: Sequence[VariantResult]
) -> list[VariantReturn]:
    """Return what a sweeper gets of each variant."""
    return [
        _variant(result, point.config.objective, fail_fast=session.fail_fast)
        for result, point in zip(results, composed.points, strict=True)
    ]


def _variant(result: VariantResult, objective: Objective, *, fail_fast: bool) -> VariantReturn:
    from orchestrator.config.batch import VariantReturn
    from orchestrator.report.objective import trial_value

    value, error = None, None
    try:
        value = trial_value(result, objective)
    except OrchestrateError as exc:
        error = exc
    return VariantReturn(
        passed=result.passed,
        value=value,
        error=error,
        directory=result.directory,
        interrupted=result.interrupted,
        ends_sweep=result.interrupted or (fail_fast and bool(result.failures)),
    )


def _path(directory: str | Path | None) -> Path | None:
    return Path(directory) if directory is not None else None
