"""Every error a user can meet: one small hierarchy, rendered without a traceback.

A message says what was wrong, where (config key, file, node), why, and what to do next. The command
line prints :meth:`OrchestrateError.render`; the Python API raises the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OrchestrateError(Exception):
    """Base of all errors that are a user's to see.

    Attributes:
        message: What was wrong, one sentence.
        where: The config key, file, node or command concerned; empty when the message names it.
        hint: What to do next; empty when nothing can be suggested.
        exit_code: The exit code of the command line when this error ends it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def render(self) -> str:
        """Return the text shown to the user: ``where: message``, and the hint on its own line."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  → {self.hint}" if self.hint else text

    def __str__(self) -> str:
        return self.render()


class UsageError(OrchestrateError):
    """The command line itself is wrong: an unknown verb, a missing argument."""

    exit_code = 2


class ConfigError(OrchestrateError):
    """A configuration value is unknown, of the wrong type, out of range or contradictory."""

    exit_code = 2


class PlanError(OrchestrateError):
    """The configuration is valid, but no graph can be planned from it on this machine."""

    exit_code = 2


class StoreError(OrchestrateError):
    """The store cannot be read or written: read-only, full, of a newer schema."""

    exit_code = 3


class StageError(OrchestrateError):
    """A stage refuses its input or its result; the same inputs fail the same way."""


class WorkerLostError(OrchestrateError):
    """A worker ended without a result: killed, crashed, out of memory. Never remembered."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the nearest of *known*, or an empty string."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else ""
