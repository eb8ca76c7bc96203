"""Failures that would come again, by action key: one JSON file a key, never a pickle.

A record says what the user was told, and what the failure depended on besides the key. One that is
damaged, foreign or of another schema is none. They may all be deleted: it costs time only.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.store.files import write_durably

SCHEMA: Final = 1
_KEPT: Final = 4
_LOG_END: Final = 64 * 1024
# What differs between two failures that are alike: addresses, times, counters.
_VARIES: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an action failed; secrets are hidden in all of it.

    Attributes:
        key: The key it was looked up by (of user code: the first-level key).
        stage: Stage name.
        message: What was wrong.
        where: The config key, file or node concerned.
        hint: What to do.
        log: The two ends of what the worker wrote, at most 128 KiB.
        observed: What user code had touched until it failed; None where none ran.
        by: Which code of ours it was that failed; for another one it is no failure.
        created: Unix time in seconds of the latest one.
        times: How often in a row it failed alike.
        needed: How often it must have, before it counts as one that comes again.
    """

    key: str
    stage: str
    message: str
    where: str = ""
    hint: str = ""
    log: str = ""
    observed: Mapping[str, Any] | None = None
    by: str = ""
    created: float = field(default_factory=time.time)
    times: int = 1
    needed: int = 1

    @property
    def counts(self) -> bool:
        """Whether it came often enough to be expected again."""
        return self.times >= self.needed


class Failures:
    """The failures that one store remembers."""

    def __init__(self, root: Path) -> None:
        """Take the store's directory; nothing is made before something is remembered."""
        self._root = root / "failures"

    def under(self, key: str) -> list[Failure]:
        """Return what is remembered under *key*, newest first."""
        return _read(self._path(key), key)

    def add(self, failure: Failure) -> Failure:
        """Remember *failure*; the caller holds the key's lock.

        Returns:
            The record, with how often it came alike (same inputs, same words but for numbers).

        Raises:
            OSError: the file system refused.
        """
        others = self.under(failure.key)
        same = next((one for one in others if _same_inputs(one, failure)), None)
        times = same.times + 1 if same is not None and _same_words(same, failure) else 1
        stored = replace(failure, times=times, log=_ends(failure.log))
        records = [stored, *(one for one in others if one is not same)][:_KEPT]
        data = json.dumps({"schema": SCHEMA, "records": [asdict(one) for one in records]}, indent=1)
        write_durably(self._path(failure.key), data.encode())
        return stored

    def forget(self, key: str) -> bool:
        """Remove what is remembered under *key*; return whether there was any.

        Raises:
            OSError: the file system refused.
        """
        try:
            self._path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def all(self) -> Iterator[Failure]:
        """Yield every readable record."""
        for path in self._files():
            yield from _read(path, path.stem)

    def forget_matching(self, selector: str) -> list[Failure]:
        """Forget those of stage *selector*, or whose key begins with it (8 digits or more).

        Raises:
            OSError: the file system refused.
        """
        found = [
            one
            for one in self.all()
            if one.stage == selector or (len(selector) >= 8 and one.key.startswith(selector))
        ]
        for one in found:
            self.forget(one.key)
        return found

    def prune(self, *, before: float) -> int:
        """Remove the files whose newest record is older than *before*, a Unix time in seconds.

        Unreadable ones and what a killed process left go too.

        Returns:
            How many keys were forgotten.

        Raises:
            OSError: the file system refused.
        """
        for path in self._root.glob("??/.*"):
            path.unlink(missing_ok=True)
        removed = 0
        for path in self._files():
            if max((one.created for one in _read(path, path.stem)), default=0.0) < before:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _files(self) -> list[Path]:
        return sorted(path for path in self._root.glob("??/*.json") if path.name[0] != ".")

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / f"{key}.json"


def _same_inputs(one: Failure, other: Failure) -> bool:
    return (one.observed, one.by) == (other.observed, other.by)


def _same_words(one: Failure, other: Failure) -> bool:
    first, second = ((_VARIES.sub("#", text.message), text.where) for text in (one, other))
    return first == second


def _ends(text: str) -> str:
    """Return the two ends of a long text."""
    if len(text) <= 2 * _LOG_END:
        return text
    left_out = len(text) - 2 * _LOG_END
    return f"{text[:_LOG_END]}\n… {left_out} characters left out …\n{text[-_LOG_END:]}"


def _read(path: Path, key: str) -> list[Failure]:
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != SCHEMA:
            return []
        records = [Failure(**one) for one in found["records"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [one for one in records if one.key == key and _is_whole(one)]


def _is_whole(failure: Failure) -> bool:
    """Whether the fields that a reader relies on have their types."""
    texts = ("stage", "message", "where", "hint", "log", "by")
    numbers = ("created", "times", "needed")
    return (
        all(isinstance(getattr(failure, name), str) for name in texts)
        and all(type(getattr(failure, name)) in (int, float) for name in numbers)
        and (failure.observed is None or isinstance(failure.observed, dict))
    )
