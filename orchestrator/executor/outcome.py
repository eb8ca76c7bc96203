"""What became of each action, and who is told while it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.errors import OrchestrateError
from orchestrator.plan.graph import Action, Graph, Variant
from orchestrator.store.results import Result

Status = Literal["ran", "cached", "shared", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of one action.

    Attributes:
        status: ``shared`` means that it was built meanwhile: by another process, or here for an
            equal action.
        result: The result, when there is one.
        error: Why it failed, or why it was skipped.
        key: The action key as far as it was known; of a skipped action it is empty.
        log: The text the worker wrote, for a failed action.
        seconds: Wall time spent on it in this run; 0 when nothing ran.
        retries: How often it was run again after its worker had been lost.
        remembered: It failed in an earlier run (or under another name), and was not run now.
    """

    status: Status
    result: Result | None = None
    error: OrchestrateError | None = None
    key: str = ""
    log: str = ""
    seconds: float = 0.0
    retries: int = 0
    remembered: bool = False


@dataclass(kw_only=True)
class Outcome:
    """What became of a graph.

    Attributes:
        finished: By action id; every action of the graph is in it.
        failures: By variant index: the gate or stage that failed it, and why.
        warnings: Sentences for the user.
        interrupted: Ctrl-C ended the run.
        stopped: The name of the variant whose failure ended the run (``--fail-fast``).
    """

    finished: dict[str, Finished] = field(default_factory=dict)
    failures: dict[int, list[OrchestrateError]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    stopped: str = ""


class Estimates(Protocol):
    """Tells how long actions will probably take."""

    def estimate(self, action: Action) -> float:
        """Return a guess for *action*, in seconds."""

    def known(self, action: Action) -> bool:
        """Whether the guess rests on something like *action* that ran before."""


class Listener(Protocol):
    """Is told what happens; the live view is one."""

    def planned(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """The run of *graph* begins, with at most *workers* actions at a time."""

    def started(self, action: Action, variants: list[Variant]) -> None:
        """An action's worker was started."""

    def progressed(self, action: Action, done: float, text: str) -> None:
        """A running action reported progress in 0..1."""

    def finished(self, action: Action, variants: list[Variant], finished: Finished) -> None:
        """An action ended, was found in the store, or was skipped."""

    def waiting(self, action: Action, reason: str) -> None:
        """An action waits for another process."""
