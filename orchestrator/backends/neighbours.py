"""Who else used the GPU while an action had it for itself: a note, never a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Json = dict[str, Any]

#: What neighbours do to a measurement.
DISTURBED: Final = "what was measured may be too slow"
_SHOWN: Final = 4


def noted(values: Mapping[str, Any], effect: str) -> Json:
    """Return an operation's *values* with a sentence in ``notes`` where it had neighbours.

    Args:
        values: With ``neighbours``: ``pid`` and ``name`` of each other process on the GPU, as the
            driver tells. They stay where there are some.
        effect: What that may have done.
    """
    found = dict(values)
    neighbours = found.pop("neighbours")
    if not neighbours:
        return found
    return {**found, "neighbours": neighbours, "notes": [f"{_sentence(neighbours)}: {effect}"]}


def _sentence(neighbours: Sequence[Mapping[str, Any]]) -> str:
    named = [
        f"{one['pid']} ({one['name']})" if one["name"] else str(one["pid"]) for one in neighbours
    ]
    several = "another process" if len(named) == 1 else f"{len(named)} other processes"
    more = [f"and {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
    return f"{several} used the GPU, {', '.join([*named[:_SHOWN], *more])}"
