"""Estimates that a test gives; of what it does not give nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.plan.graph import Action


@dataclass
class Given:
    """Seconds by stage; of other stages nothing is known."""

    seconds: Mapping[str, float] = field(default_factory=dict)

    def estimate(self, action: Action) -> float:
        """Return what was given."""
        return self.seconds.get(action.stage, 1.0)

    def known(self, action: Action) -> bool:
        """Whether it was given."""
        return action.stage in self.seconds
