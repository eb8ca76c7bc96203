"""How long a run still takes: from what its actions are thought to take, shown coarsely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.executor.outcome import Estimates
from orchestrator.plan.graph import Action, Graph
from orchestrator.stages.catalogue import stage as find_stage

_OVERDUE: Final = 0.1  # what takes longer than was thought is given this share of its time more
_KNOWN: Final = 0.5  # with less of the actions known, nothing is said
_RENEWED_EVERY_S: Final = 10.0
_SMOOTHING_S: Final = 8.0
_SOON_S: Final = 5.0
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3600.0


class Remaining:
    """Estimates the time that the unsettled actions of one graph need.

    It is the larger of the critical path (inputs, and the gates of the first variant that wants an
    action) and the work divided among the workers, behind what has the machine for itself.
    """

    def __init__(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """Take a graph, what its actions are thought to take, and how many run at a time."""
        self._graph, self._estimates, self._workers = graph, estimates, workers
        self._unsettled = dict(graph.actions)
        self._thought: dict[str, float] = {}
        self._known: set[str] = set()
        self._gates: dict[str, list[str]] = {}
        self._renewed = -math.inf

    def renew(self, now: float) -> None:
        """Ask for the estimates, unless that was just done; *now* is monotonic, in s.

        Nothing else asks, so a run in which everything is cached asks for none.
        """
        if now - self._renewed < _RENEWED_EVERY_S:
            return
        self._renewed = now
        self._gates = self._gates or _gates(self._graph)
        unsettled = self._unsettled.values()
        self._thought = {one.id: self._estimates.estimate(one) for one in unsettled}
        self._known = {one.id for one in unsettled if self._estimates.known(one)}

    def settle(self, action: Action) -> None:
        """Note that *action* has ended."""
        del self._unsettled[action.id]

    def of(self, action: Action) -> float | None:
        """Return the seconds that all of *action* is thought to take; None when unknown."""
        return self._thought[action.id] if action.id in self._known else None

    def seconds(self, elapsed: Mapping[str, float]) -> float | None:
        """Return the seconds left; None when too little is known.

        Args:
            elapsed: For how many seconds each running action has run, by its id.
        """
        unsettled = list(self._unsettled.values())
        known = sum(one.id in self._known for one in unsettled)
        if not known or known < _KNOWN * len(unsettled):
            return None
        own = {one.id: _left(self._thought[one.id], elapsed.get(one.id, 0.0)) for one in unsettled}
        alone = sum(own[one.id] for one in unsettled if find_stage(one.stage).exclusive)
        shared = sum(own.values()) - alone
        return max(self._critical_path(unsettled, own), alone + shared / self._workers)

    def _critical_path(self, unsettled: Sequence[Action], own: Mapping[str, float]) -> float:
        end: dict[str, float] = {}
        for action in unsettled:  # every one after its inputs
            before = [*(ref.action for ref in action.inputs.values()), *self._gates[action.id]]
            end[action.id] = own[action.id] + max((end.get(one, 0.0) for one in before), default=0)
        return max(end.values())


class Countdown:
    """Makes a time left that is shown: it runs down with the clock and turns slowly."""

    def __init__(self) -> None:
        self._shown: float | None = None
        self._at = 0.0

    def at(self, now: float, estimated: float | None) -> float | None:
        """Return the seconds to show at *now* (monotonic, in s), *estimated* as of now."""
        if estimated is None or self._shown is None:
            self._shown = estimated
        else:
            passed = max(now - self._at, 0.0)
            expected = max(self._shown - passed, 0.0)
            turn = 1 - math.exp(-passed / _SMOOTHING_S)
            self._shown = expected + turn * (estimated - expected)
        self._at = now
        return self._shown


def left_text(seconds: float) -> str:
    """Return a time left for people, as coarse as it is known: ``about 2 min left``."""
    if seconds < _SOON_S:
        return "a few seconds left"
    tens = math.ceil(seconds / 10) * 10
    if tens < _MINUTE_S:
        return f"about {tens} s left"
    minutes = max(round(seconds / _MINUTE_S), 1)
    if seconds < _HOUR_S - _MINUTE_S:
        return f"about {minutes} min left"
    hours, rest = divmod(round(seconds / _HOUR_S * 6), 6)  # in steps of ten minutes
    return f"about {hours} h {rest * 10} min left" if rest else f"about {hours} h left"


def seconds_text(seconds: float) -> str:
    """Return a duration for people: ``12 s``, ``2:05``, ``1:02:05``."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    minutes, rest = divmod(whole, int(_MINUTE_S))
    hours, minutes = divmod(minutes, int(_MINUTE_S))
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _left(thought: float, elapsed: float) -> float:
    return max(thought - elapsed, _OVERDUE * elapsed)


def _gates(graph: Graph) -> dict[str, list[str]]:
    """Return what judges before each action, of the first variant that wants it."""
    found: dict[str, list[str]] = {}
    for variant in graph.variants:
        for step in variant.steps:
            if step.action not in found:
                found[step.action] = [gate.action for gate in variant.gates[: step.gates]]
    return found
