"""Why an action is not cached: how its key differs from the nearest stored one, in config terms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrator.store.store import Store

_LOOKED_AT: Final = 200
_SHOWN: Final = 3
_SHORT: Final = 40


def nearest_difference(material: Mapping[str, Any], store: Store) -> str:
    """Return what differs from the nearest stored result of the stage; '' when there is none."""
    same = (result for result in store.results.all() if result.stage == material["stage"])
    found = [
        list(_differences(result.material, material, ""))
        for result in itertools.islice(same, _LOOKED_AT)
    ]
    best = min((one for one in found if one), key=len, default=[])
    text = ", ".join(best[:_SHOWN])
    return f"{text}, …" if len(best) > _SHOWN else text


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new} - {"observed"}):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(old.get(key), new.get(key), below)
    elif old != new:
        yield _sentence(path, old, new)


def _sentence(path: str, old: Any, new: Any) -> str:
    group, _, name = path.partition(".")
    match group:
        case "inputs":
            return f"its input '{name}' changed"
        case "files":
            return f"the file '{name}' changed"
        case "machine":
            return "another processor"
        case "tools" | "params":
            return f"{name} {_short(old)} → {_short(new)}"
        case _:
            return f"{path} {_short(old)} → {_short(new)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"
