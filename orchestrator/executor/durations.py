"""How long an action will probably take."""

from __future__ import annotations

import statistics

from orchestrator.executor.costs import Costs
from orchestrator.plan.graph import Action
from orchestrator.stages.catalogue import stage as find_stage


class Durations:
    """Estimates from what actions of the same kind took in earlier runs."""

    def __init__(self, costs: Costs) -> None:
        """Nothing is read before the first estimate."""
        self._costs = costs

    def estimate(self, action: Action) -> float:
        """Return how long *action* will probably take, in seconds.

        It is the median of the newest runs of the same stage for the same model, where there are
        any with the same parameters; else of the stage; else what the stage declares.
        """
        known = self._costs.wide(action)
        if not known:
            return find_stage(action.stage).seconds
        return statistics.median(cost.seconds for cost in known)

    def known(self, action: Action) -> bool:
        """Whether the estimate rests on an earlier run of the same stage."""
        return bool(self._costs.wide(action))
