"""The second level of a key: what user code touched last time, compared with what is there now.

A worker records the modules, distributions, files, directory listings and environment variables
that a factory or data function really used (:mod:`orchestrator.executor.observe`). The record lies
under the action's first-level key; if all of it still holds, it completes the key. The same two
levels as ccache's manifests.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.plan.places import Places
from orchestrator.plan.sources import find_source, record_path
from orchestrator.store import digests
from orchestrator.store.index import Index

#: Parts of a record that enter the key; the others only say when it does not hold any more.
KEYED: Final = ("modules", "distributions", "files", "listings", "environment")
#: All parts of a record; one without any of them was written by another version and is a miss.
PARTS: Final = (*KEYED, "places", "origins", "absent")
_NOTHING: Final[Mapping[str, Path]] = {}


class Observer:
    """Checks records against the present state of files, modules and distributions."""

    def __init__(self, base: Path, search_path: Sequence[str], index: Index) -> None:
        self._base = base
        self._search_path = search_path
        self._index = index
        self._known: dict[tuple[str, str], str] = {}

    def changed(
        self, record: Mapping[str, Any], declared: Mapping[str, Path] = _NOTHING
    ) -> list[str]:
        """Return what differs from *record*, in words; empty when all of it still holds.

        Args:
            record: What a worker recorded.
            declared: The declared files of the action asked for, by input name.
        """
        if any(part not in record for part in PARTS):
            return ["recorded by another version of orchestrate"]
        places = Places(self._base, declared)
        return [
            *self._changed_code(record, places),
            *self._changed_distributions(record),
            *self._changed_files(record, places),
            *(
                f"the environment variable {name} changed"
                for name, digest in record["environment"].items()
                if variable(name) != digest
            ),
        ]

    def _changed_code(self, record: Mapping[str, Any], places: Places) -> list[str]:
        found = []
        for name, digest in record["modules"].items():
            place = record["places"][name]
            if self._now("module", name) != digest:
                found.append(f"source of {name} changed")
            elif self._now("place", name) != str(places.path(place)):
                found.append(f"{name} is another file than {place}")
        found += [
            f"{name} can be imported now"
            for name in record["absent"]
            if self._now("place", name) != ""
        ]
        return found

    def _changed_distributions(self, record: Mapping[str, Any]) -> list[str]:
        found = []
        for name, digest in record["distributions"].items():
            now = self._now("distribution", name)
            if now != digest:
                old, new = digest.split(" ")[0], now.split(" ")[0] or "none"
                what = f"{old} → {new}" if old != new else "reinstalled with other contents"
                found.append(f"{name} {what}")
        for name, distribution in record["origins"].items():
            if not self._now("origin", f"{name} {distribution}"):
                found.append(f"{name} does not come from {distribution} any more")
        return found

    def _changed_files(self, record: Mapping[str, Any], places: Places) -> list[str]:
        kinds = (("file", "files", "changed"), ("listing", "listings", "has other files in it"))
        return [
            f"{name} {what}"
            for kind, part, what in kinds
            for name, digest in record[part].items()
            if self._now(kind, str(places.path(name))) != digest
        ]

    def _now(self, kind: str, name: str) -> str:
        if (kind, name) not in self._known:
            look = {
                "module": self.module,
                "place": self.place,
                "origin": self.origin,
                "distribution": self.distribution,
                "file": self.file,
                "listing": self.listing,
            }
            try:
                self._known[kind, name] = look[kind](name)
            except (OSError, importlib.metadata.PackageNotFoundError):
                self._known[kind, name] = ""
        return self._known[kind, name]

    def module(self, name: str) -> str:
        """Return the digest of a module's source as it would be imported now ('' when absent)."""
        path = find_source(name, self._search_path)
        if path is None:
            return ""
        return self._index.source(path) if path.suffix == ".py" else self._index.file(path)

    def place(self, name: str) -> str:
        """Return the file that a module would be imported from now ('' when absent)."""
        path = find_source(name, self._search_path)
        return "" if path is None else str(path.absolute())

    def distribution(self, name: str) -> str:
        """Return ``version digest-of-RECORD`` of an installed distribution."""
        version = importlib.metadata.version(name)
        record = record_path(name)
        return f"{version} {self._index.file(record) if record is not None else '-'}"

    def origin(self, name: str) -> str:
        """Return where ``module distribution`` would be imported from; '' when from elsewhere."""
        module, _, distribution = name.partition(" ")
        path, record = find_source(module, self._search_path), record_path(distribution)
        if path is None or record is None or not path.is_relative_to(record.parent.parent):
            return ""
        return str(path)

    def file(self, name: str) -> str:
        """Return the digest of a file or directory; relative names start at the base."""
        path = self._base / name
        return self._index.directory(path) if path.is_dir() else self._index.file(path)

    def listing(self, name: str) -> str:
        """Return the digest of the names in a directory; relative names start at the base."""
        names = sorted(path.name for path in (self._base / name).iterdir())
        return digests.of_json("listing", [one for one in names if one != "__pycache__"])


def variable(name: str) -> str:
    """Return the digest of an environment variable's value ('' when it is not set)."""
    value = os.environ.get(name)
    return "" if value is None else digests.of_bytes(os.fsencode(value))


def key_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record enters the key."""
    return {part: record[part] for part in KEYED}
