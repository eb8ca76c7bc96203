"""Failures of earlier runs: found without starting a worker, and remembered for later ones."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.errors import StageError
from orchestrator.executor.outcome import Finished
from orchestrator.plan.graph import Action
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolved
from orchestrator.plan.secrets import Secrets
from orchestrator.report.table import age_text
from orchestrator.store import digests
from orchestrator.store.failures import Failure, Failures
from orchestrator.store.store import Store


class FailedBefore:
    """What a store remembers of failed actions, as one run may use it."""

    def __init__(
        self, store: Store, secrets: Secrets, observer: Observer, *, retry_failed: bool
    ) -> None:
        """Begin a run.

        Args:
            store: Where failures are kept.
            secrets: Hidden in all that is kept.
            observer: Tells whether what user code had touched is still the same.
            retry_failed: Failures of earlier runs do not count; those of this one do.
        """
        self._failures = Failures(store.root)
        self._secrets, self._observer = secrets, observer
        self._since = time.time() if retry_failed else 0.0

    def find(self, action: Action, resolved: Resolved) -> Finished | None:
        """Return how *action* failed before with the very same inputs, or None."""
        for one in self._failures.under(resolved.key):
            current = one.created >= self._since and one.by == _own_code()
            if one.counts and current and self._holds(one, action):
                again = f"failed before, {age_text(one.created)}; --retry-failed runs it again"
                hint = f"{one.hint}; {again}" if one.hint else again
                return Finished(
                    status="failed",
                    error=StageError(one.message, where=one.where, hint=hint),
                    key=resolved.key,
                    log=one.log,
                    remembered=True,
                )
        return None

    def remember(
        self, action: Action, key: str, error: StageError, log: str, report: Mapping[str, Any]
    ) -> None:
        """Remember a failure if the worker's *report* says that it would come again.

        An input that is in no key may be to blame: with one, nothing is remembered. The caller
        holds the key's lock. A disk that refuses costs time only.
        """
        needed = report.get("needed", 0)
        if not needed or action.unkeyed:
            return
        hide = self._secrets.hide_text
        failure = Failure(
            key=key,
            stage=action.stage,
            message=hide(error.message),
            where=hide(error.where),
            hint=hide(error.hint),
            log=log,
            observed=self._secrets.hide(report["observed"]),
            by=_own_code(),
            needed=needed,
        )
        with contextlib.suppress(OSError):
            self._failures.add(failure)

    def forget(self, key: str) -> None:
        """Forget what failed under *key*: it succeeded now."""
        with contextlib.suppress(OSError):
            self._failures.forget(key)

    def _holds(self, failure: Failure, action: Action) -> bool:
        if failure.observed is None:
            return True
        declared = {name: file.path for name, file in action.files.items()}
        return not self._observer.changed(self._secrets.reveal(failure.observed), declared)


@functools.cache
def _own_code() -> str:
    """Return what changes with every other version, or edit, of our own code.

    A stage's version stands for what it makes, not for what it refuses.
    """
    root = Path(orchestrator.__file__).parent
    stats = {str(path.relative_to(root)): path.stat() for path in sorted(root.rglob("*.py"))}
    seen = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return digests.of_json("own code", seen)
