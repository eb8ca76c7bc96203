"""How far a run is: what runs, how many actions ended in each status, how much is left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from orchestrator.executor.outcome import Estimates, Status
from orchestrator.plan.graph import Action, Graph
from orchestrator.report.remaining import Countdown, Remaining, left_text

_ORDER: Final[tuple[Status, ...]] = ("failed", "ran", "shared", "cached", "skipped")
_ESTIMATE_EVERY_S: Final = 2.0


@dataclass(kw_only=True)
class Running:
    """An action whose worker is at work.

    Attributes:
        label: What it is and for which variants, for people.
        begun: When it was started (monotonic, in s).
        thought: The seconds it is thought to take; None when unknown.
        done: What it reported, in 0..1; 0 before it reports anything.
        text: What it reported to be working on.
    """

    action: Action
    label: str
    begun: float
    thought: float | None
    done: float = 0.0
    text: str = ""

    def share(self, now: float) -> float | None:
        """Return how much of it is done at *now*, in 0..1; None when nothing is known."""
        if self.done > 0:
            return min(self.done, 1.0)
        if self.thought:
            return min((now - self.begun) / self.thought, 0.95)
        return None


class Progress:
    """Counts what a listener is told; one thread may tell while another one draws."""

    def __init__(self, graph: Graph, estimates: Estimates, workers: int) -> None:
        """Take a graph, what its actions are thought to take, and how many run at a time."""
        self._lock = threading.Lock()
        self._remaining = Remaining(graph, estimates, workers)
        self._running: dict[str, Running] = {}
        self._counts: Counter[Status] = Counter()
        self._total = len(graph.actions)
        self._countdown = Countdown()
        self._estimated = -_ESTIMATE_EVERY_S
        self._left_s: float | None = None

    def started(self, action: Action, label: str) -> None:
        """Note an action that runs now."""
        now = time.monotonic()
        with self._lock:
            self._remaining.renew(now)
            thought = self._remaining.of(action)
            self._running[action.id] = Running(
                action=action, label=_plain(label), begun=now, thought=thought
            )

    def progressed(self, action: Action, done: float, text: str) -> None:
        """Note how far a running action is."""
        with self._lock:
            if action.id in self._running:
                self._running[action.id].done = done
                self._running[action.id].text = _plain(text)

    def finished(self, action: Action, status: Status) -> None:
        """Note the end of an action."""
        with self._lock:
            self._counts[status] += 1
            self._running.pop(action.id, None)
            self._remaining.settle(action)

    @property
    def running(self) -> list[Running]:
        """What runs, in the order in which it was started."""
        with self._lock:
            return list(self._running.values())

    def totals(self, now: float) -> str:
        """Return one line, what matters most first: ``about 2 min left · 4 running · 13 to go``."""
        with self._lock:
            running = len(self._running)
            left = self._total - self._counts.total() - running
            ended = [f"{self._counts[name]} {name}" for name in _ORDER if self._counts[name]]
            left_s = self._left(now)
        time_left = [left_text(left_s)] if left_s is not None else []
        return " · ".join([*time_left, f"{running} running", f"{left} to go", *ended])

    def _left(self, now: float) -> float | None:
        """Return the seconds left; None when nothing runs yet, or too little is known."""
        if self._running and now - self._estimated >= _ESTIMATE_EVERY_S:
            self._estimated = now
            elapsed = {one.action.id: now - one.begun for one in self._running.values()}
            self._left_s = self._countdown.at(now, self._remaining.seconds(elapsed))
        return self._left_s


def _plain(text: str) -> str:
    """Return *text* without line ends and escape sequences: a toolchain may report anything."""
    return "".join(one if one.isprintable() else " " for one in text)
