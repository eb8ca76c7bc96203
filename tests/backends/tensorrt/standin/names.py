"""Which names the imitated version has: by the tables that are held against the real bindings."""

from __future__ import annotations

import enum
from typing import Any, Final

from orchestrator.backends.tensorrt.api_since import SINCE
from orchestrator.backends.tensorrt.worker import AVAILABLE, parse_version
from tests.backends.tensorrt.standin.settings import NUMBERS

_SPANS: Final = {
    **{f"{prefix}.{name}": span for prefix, rows in SINCE.items() for name, span in rows.items()},
    **AVAILABLE,
}


def has(name: str) -> bool:
    """Return whether the version has a dotted name; True for what no table lists."""
    first, gone = _SPANS.get(name, _SPANS.get(f".{name}", ("", "")))
    return parse_version(first) <= NUMBERS and not (gone and parse_version(gone) <= NUMBERS)


def members(prefix: str) -> list[str]:
    """Return what the tables list below *prefix* and the version has."""
    listed = [name.rpartition(".") for name in _SPANS]
    return [name for owner, _, name in listed if owner == prefix and has(f"{owner}.{name}")]


def make_enum(name: str, *always: str) -> Any:
    """Return an enum of the version's members; numbers differ from version to version, as theirs.

    Args:
        name: The enum's name.
        always: Members that no table lists: every version has them.
    """
    found = sorted({*always, *members(name)})
    return enum.IntEnum(name, {member: at for at, member in enumerate(found)})


def pruned(cls: type) -> type:
    """Return *cls* without the attributes that the version lacks."""
    for name in [name for name in vars(cls) if not has(f"{cls.__name__}.{name}")]:
        delattr(cls, name)
    return cls
