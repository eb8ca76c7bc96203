"""The variants of one run with their typed configurations, whether composed now or remembered.

What comes after composing knows no Hydra: it gets one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Point:
    """One variant: a point of the sweep.

    Attributes:
        index: Its place in the sweep, from 0.
        name: As in the table; the name of its directory below the sweep's.
        overrides: As Hydra gave them.
        config: Its typed configuration. Points may share parts of it: do not change them.
        save: Writes what Hydra saves below an experiment directory and returns its folder.
    """

    index: int
    name: str
    overrides: list[str]
    config: Config
    save: Callable[[Path], Path]


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """How the variants of a sweep came about: for a user to read, and as JSON."""

    lines: Sequence[str] = ()
    warnings: Sequence[str] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """All variants of one batch.

    Attributes:
        points: The variants, at least one.
        sweep: A multirun; a single run otherwise.
        environment: The variables that the configurations name, with their values.
        reserve: Makes the run's or the sweep's directory, which no other run shares, and returns
            its absolute path. The further batches of a sweep get the same one.
        log_to: Configures ``logging`` for the run in a directory, which exists.
        announcement: How the variants came about; None where that is not known.
    """

    points: Sequence[Point]
    sweep: bool
    environment: Mapping[str, str]
    reserve: Callable[[], Path]
    log_to: Callable[[Path], None]
    announcement: Announcement | None = None

    @property
    def first(self) -> bool:
        """Whether no other batch of its sweep came before."""
        return not self.points or self.points[0].index == 0
