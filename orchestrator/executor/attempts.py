"""Actions whose worker was lost are run again, a few times."""

from __future__ import annotations

from orchestrator.errors import OrchestrateError
from orchestrator.plan.graph import Action


class Attempts:
    """Counts, for each action, the workers that were lost, and keeps what they left to say."""

    def __init__(self, retries: int) -> None:
        """Take how often an action may be run again; 0: never."""
        self._retries = retries
        self._lost: dict[str, list[str]] = {}

    def again(self, action: Action, error: OrchestrateError, log: str) -> bool:
        """Note a lost worker; return whether *action* may run again."""
        lost = self._lost.get(action.id, [])
        if len(lost) >= self._retries:
            return False
        number = len(lost) + 1
        note = f"retry {number} of {self._retries}: {error.message}"
        before = f"{log.rstrip()}\n" if log.strip() else ""
        self._lost[action.id] = [*lost, f"{before}--- {note} ---\n"]
        return True

    def count(self, action: Action) -> int:
        """Return how often *action* was run again."""
        return len(self._lost.get(action.id, []))

    def notes(self, action: Action) -> str:
        """Return what comes before the log of the latest attempt: earlier logs, and why."""
        return "".join(self._lost.get(action.id, []))
