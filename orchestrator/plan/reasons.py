"""Why an action is not cached: how its key differs from the nearest stored one, in config terms."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.plan.observed import key_part
from orchestrator.plan.terms import Words, added_removed_changed, sentence
from orchestrator.store import digests
from orchestrator.store.results import Result, Results

_LOOKED_AT: Final = 500
_SHOWN: Final = 3
_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The stored result whose key is nearest, and what differs from it, in sentences."""

    result: Result
    differences: list[str]


class History:
    """The results of one store, read once: by stage, the newest first."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._stages: dict[str, list[Result]] = defaultdict(list)
        for result in sorted(results.all(), key=lambda one: -one.created):
            self._stages[result.stage].append(result)

    def of(self, stage: str, key: str) -> list[Result]:
        """Return the results under *key*, the newest first; of measurements there are several."""
        return [result for result in self._stages.get(stage, []) if result.key == key]

    def nearest(
        self,
        material: Mapping[str, Any],
        *,
        before: float = math.inf,
        sources: Mapping[str, str] = _NOTHING,
    ) -> Nearest | None:
        """Return the result of the same stage that differs least; None when there is none.

        Of several that differ as little the newest counts; equal ones are none.

        Args:
            material: What the key is the hash of.
            before: A Unix time; only results from before it count.
            sources: Where inputs come from: tree digest → role of an action.
        """
        earlier = [one for one in self._stages.get(material["stage"], []) if one.created < before]
        found = [
            Nearest(result=result, differences=self.differences(result.material, material, sources))
            for result in earlier[:_LOOKED_AT]
        ]
        different = [one for one in found if one.differences]
        return min(different, key=lambda one: len(one.differences), default=None)

    def differences(
        self,
        old: Mapping[str, Any],
        new: Mapping[str, Any],
        sources: Mapping[str, str] = _NOTHING,
    ) -> list[str]:
        """Return what differs between the materials of two keys of a stage, in sentences."""
        words = Words(
            stage=str(new["stage"]),
            purpose=str(new["params"].get("purpose", "")),
            sources=sources,
            places={**self._places(old), **self._places(new)},
        )
        return differences(old, new, words)

    def _places(self, material: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the file of each module that user code imported, as its record has it."""
        if "observed" not in material:
            return _NOTHING
        known = {name: part for name, part in material.items() if name != "observed"}
        for record in self._results.observations(digests.of_json("action", known)):
            places = record.get("places")
            if isinstance(places, dict) and _matches(record, material["observed"]):
                return places
        return _NOTHING


def shortened(found: list[str]) -> str:
    """Return the first differences as one line."""
    text = ", ".join(found[:_SHOWN])
    return f"{text}, … ({len(found) - _SHOWN} more)" if len(found) > _SHOWN else text


def differences(old: Mapping[str, Any], new: Mapping[str, Any], words: Words) -> list[str]:
    """Return what differs between the materials of two keys of a stage, in sentences.

    What user code touched is compared where both keys have it: before it runs, nobody knows it.
    """
    parts = ["stage", "version", "params", "files", "inputs", "tools", "machine", "salt", "schema"]
    found = [
        text
        for part in parts
        for path, before, after in _leaves(old.get(part), new.get(part), (part,))
        for text in sentence(path, before, after, words)
    ]
    if "observed" in old and "observed" in new:
        found += _touched(old["observed"], new["observed"], words)
    return list(dict.fromkeys(found))  # a distribution may be a tool and touched by user code


def _leaves(
    old: Any, new: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if path == ("machine",):
        if old != new:
            yield path, old, new
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _leaves(old.get(key), new.get(key), (*path, str(key)))
    elif old != new:
        yield path, old, new


def _touched(old: Mapping[str, Any], new: Mapping[str, Any], words: Words) -> Iterator[str]:
    for part in sorted({*old, *new}):
        before, after = old.get(part) or {}, new.get(part) or {}
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                yield added_removed_changed(part, name, before.get(name), after.get(name), words)


def _matches(record: Mapping[str, Any], observed: Any) -> bool:
    try:
        return bool(key_part(record) == observed)
    except KeyError:
        return False
