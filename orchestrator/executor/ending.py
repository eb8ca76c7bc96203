"""How a started action ended: stored, failed, or lost and to be run again."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import backend
from orchestrator.errors import OrchestrateError, StageError, StoreError, WorkerLostError
from orchestrator.executor.attempts import Attempts
from orchestrator.executor.claims import Claim
from orchestrator.executor.commit import (
    MismatchError,
    commit,
    failure_report,
    is_lost,
    log_text,
    read_report,
)
from orchestrator.executor.failed_before import FailedBefore
from orchestrator.executor.outcome import Finished
from orchestrator.plan.graph import Action
from orchestrator.plan.resolve import Resolved, Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.store.store import Store


@dataclass(kw_only=True)
class Running:
    """A started action: its locks, the worker's directory, and when it began (monotonic, in s).

    It has not begun before the server has imported what it needs. *alone*: nothing else is started
    until it ends. *seconds* is how long it took in the end.
    """

    action: Action
    resolved: Resolved
    claim: Claim
    directory: Path
    alone: bool
    begun: float = math.inf
    timed_out: bool = False
    seconds: float = 0.0


class Endings:
    """Turns what workers leave into results and failures of one run."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        secrets: Secrets,
        failed_before: FailedBefore,
        *,
        timeout_s: float | None,
        rebuild: Collection[str],
        retries: int,
    ) -> None:
        self._store, self._resolver, self._secrets = store, resolver, secrets
        self._failed_before = failed_before
        self._timeout_s, self._rebuild = timeout_s, rebuild
        self._attempts = Attempts(retries)

    def tried(self, action: Action) -> bool:
        """Whether *action* was run in this run and its worker was lost."""
        return self._attempts.count(action) > 0

    def of(self, running: Running, code: int, *, starved: bool | None) -> Finished | None:
        """Store what a worker left, or remember its failure; None: run the action again.

        Args:
            running: What ended; the key's lock is still held.
            code: The worker's exit code, negative for a signal.
            starved: Whether the kernel killed it for want of memory; None: it does not tell.

        Raises:
            StoreError: the store's disk is full or read-only.
        """
        action, seconds = running.action, running.seconds
        try:
            if running.timed_out:
                raise StageError(
                    f"took longer than {self._timeout_s:g} s and was ended",
                    where=action.stage,
                    hint="raise executor.timeout_s",
                )
            result = commit(
                self._store,
                self._resolver,
                self._secrets,
                running.resolved,
                action,
                running.directory,
                read_report(running.directory, code, action, starved=starved),
                replace=action.stage in self._rebuild,
                notes=self._attempts.notes(action),
            )
        except StoreError:
            raise
        except OrchestrateError as error:
            return self._failed(running, code, error, seconds)
        self._failed_before.forget(running.resolved.key)
        retries = self._attempts.count(action)
        return Finished(status="ran", result=result, seconds=seconds, retries=retries)

    def lost(
        self, action: Action, key: str, error: WorkerLostError, log: str = "", seconds: float = 0.0
    ) -> Finished | None:
        """A worker was lost: None as long as ``executor.retries`` lets its action run again."""
        if self._attempts.again(action, error, log):
            return None
        return self._finished(action, key, error, log, seconds)

    def _failed(
        self, running: Running, code: int, error: OrchestrateError, seconds: float
    ) -> Finished | None:
        action, key = running.action, running.resolved.key
        if isinstance(error, MismatchError) and action.reach:
            runtime = backend(action.params["target"]["backend"])
            runtime.forget(action.reach, self._store.index)
        log = log_text(running.directory, self._secrets)
        report = failure_report(running.directory)
        if isinstance(error, WorkerLostError) and is_lost(report, code):
            return self.lost(action, key, error, log, seconds)
        if isinstance(error, StageError) and not running.timed_out:
            self._failed_before.remember(action, key, error, log, report)
        return self._finished(action, key, error, log, seconds)

    def _finished(
        self, action: Action, key: str, error: OrchestrateError, log: str, seconds: float
    ) -> Finished:
        return Finished(
            status="failed",
            error=error,
            key=key,
            log=self._secrets.hide_text(self._attempts.notes(action)) + log,
            seconds=seconds,
            retries=self._attempts.count(action),
        )
