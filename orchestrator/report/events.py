"""What happens as JSON lines on standard error, for programs: ``--json``.

The command line writes its errors with this too, so nothing heavy is imported here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from orchestrator.report.labels import role_of

if TYPE_CHECKING:
    from orchestrator.errors import OrchestrateError
    from orchestrator.executor.outcome import Estimates, Finished
    from orchestrator.plan.graph import Action, Graph, Variant

_PROGRESS_EVERY_S: Final = 1.0


def emit(event: str, **fields: Any) -> None:
    """Write one event, a JSON object on one line; *fields* are JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"event": event, "time": now, **fields}) + "\n")
    sys.stderr.flush()


def error_fields(error: OrchestrateError) -> dict[str, str]:
    """Return what an error says, as an event has it: ``message``, ``where``, ``hint``."""
    return {"message": error.message, "where": error.where, "hint": error.hint}


class EventStream:
    """Implements :class:`orchestrator.executor.outcome.Listener` by writing events."""

    def __init__(self, hide: Callable[[Any], Any]) -> None:
        """Take what replaces secrets in JSON."""
        self._hide = hide
        self._told: dict[str, float] = {}
        self._estimates: Estimates | None = None

    def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """Write ``planned``."""
        self._estimates = estimates
        actions, variants = len(graph.actions), len(graph.variants)
        emit("planned", actions=actions, variants=variants, workers=workers)

    def started(self, action: Action, variants: list[Variant]) -> None:
        """Write ``started``."""
        known = self._estimates is not None and self._estimates.known(action)
        thought = self._estimates.estimate(action) if self._estimates and known else None
        emit("started", **self._about(action, variants), estimated_seconds=thought)

    def progressed(self, action: Action, done: float, text: str) -> None:
        """Write ``progressed``, at most once a second for each action."""
        now = time.monotonic()
        if now - self._told.get(action.id, -_PROGRESS_EVERY_S) >= _PROGRESS_EVERY_S:
            self._told[action.id] = now
            text = self._hide(text)
            emit("progressed", action=action.id, stage=action.stage, done=done, text=text)

    def finished(self, action: Action, variants: list[Variant], finished: Finished) -> None:
        """Write ``finished``."""
        self._told.pop(action.id, None)
        error = finished.error
        emit(
            "finished",
            **self._about(action, variants),
            status=finished.status,
            key=finished.result.key if finished.result else finished.key or None,
            seconds=round(finished.seconds, 4),
            retries=finished.retries,
            error=self._hide(error_fields(error)) if error is not None else None,
        )

    def waiting(self, action: Action, reason: str) -> None:
        """Write ``waiting``."""
        emit("waiting", action=action.id, stage=action.stage, reason=self._hide(reason))

    def _about(self, action: Action, variants: list[Variant]) -> dict[str, Any]:
        names = self._hide([one.name for one in variants])
        role = role_of(action, variants)
        return {"action": action.id, "stage": action.stage, "role": role, "variants": names}
