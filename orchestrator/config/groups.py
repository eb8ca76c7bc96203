"""What every config group is made of: the strict base class and the types that groups share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Dotted = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]


class Group(BaseModel):
    """Base of all config groups: immutable, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    _refuse_strange(arguments, "")
    return arguments


def _refuse_strange(value: Any, place: str) -> None:
    """Refuse what JSON, in which keys and requests are written, cannot hold."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{place or 'it'} has the key {name!r}; keys are texts: '{name}'")
            _refuse_strange(item, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _refuse_strange(item, f"{place}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}, which is no number to compute with")
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(
            f"{place} is {type(value).__name__}; expected text, number, boolean, list or map"
        )


Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
