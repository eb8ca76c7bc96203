"""The objective: what a sweeper that searches is told about each variant. Enters no key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.config.groups import Group
from orchestrator.errors import ConfigError, nearest

if TYPE_CHECKING:
    from orchestrator.config.schema import Config

Number = Literal[
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "throughput",
    "artifact_bytes",
    "max_error",
    "snr_db",
    "metric",
    "task_drop",
]
NUMBERS: Final[tuple[str, ...]] = get_args(Number)
MEASURED: Final = ("p50_ms", "p90_ms", "p99_ms", "throughput")
SCORED: Final = ("metric", "task_drop")


def _known_names(names: Iterable[Any]) -> None:
    for name in names:
        if name not in NUMBERS:
            near = nearest(str(name), NUMBERS)
            known = f"known: {', '.join(NUMBERS)}"
            raise ValueError(f"there is no number '{name}'; {near or known}")


def _known_value(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if not names:
        raise ValueError("names no number")
    _known_names(names)
    return value


def _known_limits(limits: Any) -> Any:
    if isinstance(limits, dict):
        _known_names(limits)
    return limits


class Limit(Group):
    """Where a number must lie; one that is not known lies nowhere."""

    min: float | None = Field(default=None, description="At least this.")
    max: float | None = Field(default=None, description="At most this.")

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"needs min <= max, got {self.min}, {self.max}")
        return self


class Objective(Group):
    """What a sweeper that searches (such as Optuna's) is told about each variant. Enters no key.

    A variant that failed, lacks the number or is beyond a limit is a failed trial.
    """

    value: Annotated[Number | list[Number], BeforeValidator(_known_value)] = Field(
        default="p50_ms",
        description="The number, or several for a search with several directions. Which way is "
        "better is the sweeper's to know.",
    )
    limits: Annotated[dict[Number, Limit], BeforeValidator(_known_limits)] = Field(
        default_factory=dict, description="What a variant must keep to for its value to count."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers that make the value."""
        return tuple(self.value) if isinstance(self.value, list) else (self.value,)


def check_objective(config: Config) -> None:
    """Check that what the objective of a search names will be there once a variant is built.

    Raises:
        ConfigError: it is not going to be measured or scored.
    """
    objective = config.objective
    places = {f"objective.limits.{name}": name for name in objective.limits}
    for where, name in [*(("objective.value", name) for name in objective.names), *places.items()]:
        if name in MEASURED and not config.benchmark.enabled:
            raise ConfigError(
                f"{name} is not measured, so no trial would have a value",
                where=where,
                hint=f"leave out benchmark=none, or choose {', '.join(_others(config))}",
            )
        if name in SCORED and config.model.task is None:
            raise ConfigError(
                f"{name} is not known: {config.model.name} has no task metric",
                where=where,
                hint=f"declare model.task, or choose {', '.join(_others(config))}",
            )


def _others(config: Config) -> list[str]:
    absent = [
        *(MEASURED if not config.benchmark.enabled else ()),
        *(SCORED if config.model.task is None else ()),
    ]
    return [name for name in NUMBERS if name not in absent]
