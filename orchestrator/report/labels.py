"""What an action is called in the live view, in events, in ``plan`` and in ``explain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.plan.graph import Action, Variant


def label_of(action: Action, variants: Sequence[Variant]) -> str:
    """Return the action's role and for which variant, or for how many, it runs."""
    first, role = variants[0], role_of(action, variants)
    if len(variants) > 1:
        return f"{role} · {first.config.model.name} · for {len(variants)} variants"
    return f"{role} · {first.name}"


def role_of(action: Action, variants: Sequence[Variant]) -> str:
    """Return the action's part in the first variant that wants it."""
    roles = (step.role for step in variants[0].steps if step.action == action.id)
    return min(roles, default=action.stage)
