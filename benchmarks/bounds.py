"""How fast a graph could have run at best, from what its actions took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.executor.schedule import paths
from orchestrator.plan.graph import Graph
from orchestrator.stages.catalogue import stage as find_stage


@dataclass(frozen=True, kw_only=True)
class Took:
    """What an action took: *seconds* in its worker. Actions of one *key* are one."""

    key: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The parts of the least wall time on *cores* cores, in seconds.

    Attributes:
        critical_s: The longest chain of actions, over inputs and gates.
        exclusive_s: What runs alone on the machine (measurements), together.
        rest_s: All other actions together.
    """

    critical_s: float
    exclusive_s: float
    rest_s: float
    cores: int

    @property
    def seconds(self) -> float:
        """The critical path, or exclusive time + rest / cores where that is more."""
        return max(self.critical_s, self.exclusive_s + self.rest_s / self.cores)


def bound_of(graph: Graph, took: Mapping[str, Took], cores: int) -> Bound:
    """Return the bound of *graph*.

    Args:
        graph: What ran.
        took: By action id, for every action of the graph.
        cores: How many actions run at a time.
    """
    actions = list(graph.actions.values())
    chains = paths(graph, actions, lambda action: took[action.id].seconds)
    alone: dict[str, float] = {}
    beside: dict[str, float] = {}
    for action in actions:
        kind = alone if find_stage(action.stage).exclusive else beside
        kind[took[action.id].key] = took[action.id].seconds
    return Bound(
        critical_s=max(chains.values()),
        exclusive_s=sum(alone.values()),
        rest_s=sum(beside.values()),
        cores=cores,
    )
