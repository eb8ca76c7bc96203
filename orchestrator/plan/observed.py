"""The second level of a key: what user code touched last time, compared with what is there now.

A worker records the modules, distributions and files that a factory or data function really used
(:mod:`orchestrator.executor.observe`). The record lies under the action's first-level key; if all
of it still holds, it completes the key. The same two levels as ccache's manifests.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.plan.sources import find_source, record_path
from orchestrator.store.index import Index


class Observer:
    """Checks records against the present state of files, modules and distributions."""

    def __init__(self, base: Path, search_path: Sequence[str], index: Index) -> None:
        self._base = base
        self._search_path = search_path
        self._index = index
        self._known: dict[tuple[str, str], str] = {}

    def changed(self, record: Mapping[str, Any]) -> list[str]:
        """Return what differs from *record*, in words; empty when all of it still holds."""
        found = []
        for name, digest in record["modules"].items():
            if self._now("module", name) != digest:
                found.append(f"source of {name} changed")
        for name, digest in record["distributions"].items():
            now = self._now("distribution", name)
            if now != digest:
                old, new = digest.split(" ")[0], now.split(" ")[0] or "none"
                what = f"{old} → {new}" if old != new else "reinstalled with other contents"
                found.append(f"{name} {what}")
        for name, distribution in record["origins"].items():
            if not self._now("origin", f"{name} {distribution}"):
                found.append(f"{name} does not come from {distribution} any more")
        for name, digest in record["files"].items():
            if self._now("file", name) != digest:
                found.append(f"{name} changed")
        return found

    def _now(self, kind: str, name: str) -> str:
        if (kind, name) not in self._known:
            look = {"module": self.module, "origin": self.origin}
            look |= {"distribution": self.distribution, "file": self.file}
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


def key_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a record enters the key: names of files without their directories."""
    return {
        "modules": record["modules"],
        "distributions": record["distributions"],
        "files": sorted([Path(name).name, digest] for name, digest in record["files"].items()),
    }
