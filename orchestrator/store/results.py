"""Results by action key, records of user code, and measurements: one JSON file each."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.store.files import write_durably

SCHEMA = 1
_OBSERVATIONS_KEPT = 16


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an action gave.

    Attributes:
        key: The action key.
        stage: Stage name.
        material: What the key is the hash of, secrets redacted.
        outputs: Tree digest of each output.
        values: The stage's JSON values.
        tools: Distribution versions that the worker reported.
        seconds: Wall time of the worker.
        peak_bytes: Peak resident memory of the worker.
        created: Unix time in seconds.
        log: Digest of the tree that holds the action's log.
    """

    key: str
    stage: str
    material: Mapping[str, Any]
    outputs: Mapping[str, str]
    values: Mapping[str, Any]
    tools: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0
    created: float = field(default_factory=time.time)
    log: str = ""


class Results:
    """The JSON files of one store."""

    def __init__(self, root: Path) -> None:
        self._actions = root / "actions"
        self._observed = root / "observed"
        self._measurements = root / "measurements"

    def get(self, key: str) -> Result | None:
        """Return the result of *key*; a missing, damaged or foreign file is None."""
        return _read(self._action(key), key)

    def put(self, result: Result, *, replace: bool) -> Result:
        """Store *result*; the first writer of a key wins unless *replace*.

        Returns:
            The result that the store now has.

        Raises:
            OSError: the file system refused.
        """
        path = self._action(result.key)
        if not replace and (existing := self.get(result.key)) is not None:
            return existing
        write_durably(path, _dump(result))
        return result

    def forget(self, key: str) -> bool:
        """Remove a result and the measurements under the key; return whether there was any."""
        found = False
        for path in (self._action(key), *self._measured(key)):
            found = found or path.exists()
            path.unlink(missing_ok=True)
        return found

    def all(self) -> Iterator[Result]:
        """Yield every readable result, measurements included."""
        for root in (self._actions, self._measurements):
            for path in sorted(root.rglob("*.json")):
                if path.name.startswith("."):
                    continue
                key = path.stem if root is self._actions else path.parent.name
                if (result := _read(path, key)) is not None:
                    yield result

    def damaged(self) -> Iterator[Path]:
        """Yield result files that cannot be read as what their name says."""
        for path in sorted(self._actions.rglob("*.json")):
            if not path.name.startswith(".") and _read(path, path.stem) is None:
                yield path

    def observations(self, key: str) -> list[dict[str, Any]]:
        """Return the recorded observations under a first-level key, newest first."""
        try:
            found = json.loads(self._observation(key).read_bytes())
        except (OSError, ValueError):
            return []
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            return []
        records = found.get("records")
        return [one for one in records if _is_record(one)] if isinstance(records, list) else []

    def observe(self, key: str, record: Mapping[str, Any]) -> None:
        """Add an observation under a first-level key (the caller holds the key's lock)."""
        others = [old for old in self.observations(key) if old != record]
        records = [dict(record), *others][:_OBSERVATIONS_KEPT]
        data = json.dumps({"schema": SCHEMA, "records": records}, indent=1)
        write_durably(self._observation(key), data.encode())

    def newest_measurement(self, key: str) -> Result | None:
        """Return the newest readable measurement under *key*."""
        for path in reversed(self._measured(key)):
            if (result := _read(path, key)) is not None:
                return result
        return None

    def measure(self, result: Result) -> None:
        """Append a measurement.

        Raises:
            OSError: the file system refused.
        """
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        write_durably(self._measurements / result.key[:2] / result.key / name, _dump(result))

    def _measured(self, key: str) -> list[Path]:
        return sorted((self._measurements / key[:2] / key).glob("[0-9]*.json"))

    def _action(self, key: str) -> Path:
        return self._actions / key[:2] / f"{key}.json"

    def _observation(self, key: str) -> Path:
        return self._observed / key[:2] / f"{key}.json"


def _dump(result: Result) -> bytes:
    return json.dumps({"schema": SCHEMA, **asdict(result)}, indent=1).encode()


def _read(path: Path, key: str) -> Result | None:
    try:
        found = json.loads(path.read_bytes())
        if found.pop("schema") != SCHEMA or found.get("key") != key:
            return None
        result = Result(**found)
        return result if _is_whole(result) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_whole(result: Result) -> bool:
    """Whether the fields that a reader relies on have their types."""
    return (
        isinstance(result.stage, str)
        and isinstance(result.material, dict)
        and isinstance(result.values, dict)
        and isinstance(result.log, str)
        and _is_texts(result.outputs)
        and _is_texts(result.tools)
        and all(
            isinstance(number, int | float)
            for number in (result.seconds, result.peak_bytes, result.created)
        )
    )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_texts(value.get(part)) for part in ("modules", "distributions", "origins", "files")
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
