"""What may run next, and what of it first: pure logic over one graph.

It knows nothing of processes, keys or locks. Every action is a candidate once at the beginning and
again whenever something happened that it may have waited for; so a run costs what the graph is
large, not what it is large times what happens.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterator, Mapping

from orchestrator.plan.graph import Action, Graph, Variant


class Verdict(enum.Enum):
    """What to do with a candidate."""

    NOTHING = "it is settled, or waits for what makes it a candidate again"
    SKIP = "no variant needs it any more, or an input of it is missing"
    OPEN = "its inputs are known and some variant wants it now"


class Schedule:
    """Inputs, gates and variants: when an action may run."""

    def __init__(self, graph: Graph, wanted: Mapping[str, list[Variant]]) -> None:
        """Every action is a candidate.

        Args:
            graph: The actions, each after its inputs.
            wanted: The variants that want each action, by action id.
        """
        self._actions = list(graph.actions.values())
        self._number = {action.id: number for number, action in enumerate(self._actions)}
        self._wanted = wanted
        self._consumers: dict[str, list[str]] = {action.id: [] for action in self._actions}
        for action in self._actions:
            for source in {ref.action for ref in action.inputs.values()}:
                self._consumers[source].append(action.id)
        # The gates that each variant must have passed for an action, by action id and variant.
        self._gates: dict[str, dict[int, int]] = {action.id: {} for action in self._actions}
        for variant in graph.variants:
            for step in variant.steps:
                gates = self._gates[step.action]
                gates[variant.index] = min(step.gates, gates.get(variant.index, step.gates))
        self._passed = {variant.index: 0 for variant in graph.variants}
        self._failed: set[int] = set()
        self._settled: dict[str, bool] = {}
        self._queue = list(range(len(self._actions)))  # sorted, and so a heap
        self._queued = set(self._queue)

    def candidates(self) -> Iterator[Action]:
        """Yield candidates in the graph's order, those that turn up meanwhile too."""
        while self._queue:
            number = heapq.heappop(self._queue)
            self._queued.discard(number)
            yield self._actions[number]

    @property
    def has_candidates(self) -> bool:
        """Whether :meth:`candidates` would yield any."""
        return bool(self._queue)

    def verdict(self, action: Action) -> Verdict:
        """Say what to do with a candidate."""
        if action.id in self._settled:
            return Verdict.NOTHING
        inputs = [self._settled.get(ref.action) for ref in action.inputs.values()]
        if False in inputs or not any(map(self.alive, self._wanted[action.id])):
            return Verdict.SKIP
        if None in inputs:
            return Verdict.NOTHING
        gates = self._gates[action.id]
        now = any(
            self.alive(variant) and gates[variant.index] <= self._passed[variant.index]
            for variant in self._wanted[action.id]
        )
        return Verdict.OPEN if now else Verdict.NOTHING

    def again(self, action: Action) -> None:
        """Make *action* a candidate."""
        number = self._number[action.id]
        if number not in self._queued and action.id not in self._settled:
            self._queued.add(number)
            heapq.heappush(self._queue, number)

    def settle(self, action: Action, *, succeeded: bool) -> None:
        """Note the end of *action*; what reads it becomes a candidate."""
        self._settled[action.id] = succeeded
        for consumer in self._consumers[action.id]:
            self.again(self._actions[self._number[consumer]])

    def passed(self, variant: Variant) -> int:
        """Return how many of its gates *variant* has passed."""
        return self._passed[variant.index]

    def advance(self, variant: Variant) -> None:
        """Note that *variant* passed its next gate; what is behind it becomes a candidate."""
        self._passed[variant.index] += 1
        for step in variant.steps:
            if step.gates == self._passed[variant.index]:
                self.again(self._actions[self._number[step.action]])

    def fail(self, variant: Variant) -> None:
        """Note that *variant* failed; what it wanted becomes a candidate: nobody may want it."""
        self._failed.add(variant.index)
        for step in variant.steps:
            self.again(self._actions[self._number[step.action]])

    def alive(self, variant: Variant) -> bool:
        """Whether nothing of *variant* has failed."""
        return variant.index not in self._failed

    def unsettled(self) -> list[Action]:
        """Return the actions that have not ended, in the graph's order."""
        return [action for action in self._actions if action.id not in self._settled]


def paths(
    graph: Graph, actions: list[Action], duration: Callable[[Action], float]
) -> dict[str, float]:
    """Return how long it takes, at least, until everything behind an action is done, in seconds.

    That is the longest chain of durations from each of *actions*, itself included, over what reads
    its outputs and what waits for the gate that it decides.

    Args:
        graph: The actions, each after its inputs.
        actions: Those that have not ended, in the graph's order; the others take no time.
        duration: Seconds that an action takes.
    """
    found: dict[str, float] = {}
    behind = dict.fromkeys((action.id for action in actions), 0.0)
    stages = [_Gates(variant) for variant in graph.variants]
    decides: dict[str, list[tuple[_Gates, int]]] = {}
    steps: dict[str, list[tuple[_Gates, int]]] = {}
    for gates, variant in zip(stages, graph.variants, strict=True):
        for number, gate in enumerate(variant.gates):
            decides.setdefault(gate.action, []).append((gates, number))
        for step in variant.steps:
            steps.setdefault(step.action, []).append((gates, step.gates))
    for action in reversed(actions):
        # What comes earlier in the graph is wanted by an earlier variant, too, which does not wait.
        waiting = [gates.behind(number) for gates, number in decides.get(action.id, ())]
        found[action.id] = duration(action) + max(behind[action.id], *waiting, 0.0)
        for ref in action.inputs.values():
            if ref.action in behind:
                behind[ref.action] = max(behind[ref.action], found[action.id])
        for gates, number in steps.get(action.id, ()):
            gates.note(number, found[action.id])
    return found


class _Gates:
    """The longest path among the steps of one variant, by how many gates they wait for."""

    def __init__(self, variant: Variant) -> None:
        self._longest = [0.0] * (len(variant.gates) + 1)

    def note(self, gates: int, path: float) -> None:
        self._longest[gates] = max(self._longest[gates], path)

    def behind(self, gate: int) -> float:
        return max(self._longest[gate + 1 :], default=0.0)


class Ready:
    """Actions that could start now, the one with the longest path first."""

    def __init__(self, rank: Callable[[Action], float]) -> None:
        """Begin empty.

        Args:
            rank: Seconds until everything behind an action is done; first asked when something is
                to be started.
        """
        self._rank = rank
        self._actions: dict[str, Action] = {}
        self._sorted = True

    def __contains__(self, action: Action) -> bool:
        return action.id in self._actions

    def __len__(self) -> int:
        return len(self._actions)

    def add(self, action: Action) -> None:
        """Add *action*."""
        self._sorted = self._sorted and action.id in self._actions
        self._actions[action.id] = action

    def discard(self, action: Action) -> None:
        """Remove *action* where it is there."""
        self._actions.pop(action.id, None)

    def ordered(self) -> list[Action]:
        """Return all of them, the one to start first first; equals in the order they came."""
        if not self._sorted:
            order = sorted(self._actions.values(), key=lambda action: -self._rank(action))
            self._actions = {action.id: action for action in order}
            self._sorted = True
        return list(self._actions.values())
