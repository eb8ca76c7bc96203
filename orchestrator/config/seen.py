"""What a composition asked its configuration folders, so that the same can be asked again.

Hydra asks a folder whether it has a file or a group, what a file says, and which options a group
has. All answers together decide what it composes: a new file that comes first changes one, and so
does a deleted one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.store import digests


def kind(path: str) -> str:
    """Return what lies at *path*, links followed: ``file``, ``folder`` or an empty string."""
    # os.path, not pathlib: a thousand questions of strings.
    if os.path.isfile(path):  # noqa: PTH113
        return "file"
    return "folder" if os.path.isdir(path) else ""  # noqa: PTH112


def content(path: str) -> str:
    """Return the digest of a file's bytes; empty when it cannot be read."""
    try:
        return digests.of_file(Path(path))
    except OSError:
        return ""


def listing(path: str) -> str:
    """Return the digest of the names in a folder, and which are files; empty without one."""
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208
    except OSError:
        return ""
    return digests.of_json("listing", [[name, kind(f"{path}/{name}")] for name in names])


@dataclass(kw_only=True)
class Seen:
    """Answers by absolute path: :func:`kind`, :func:`content` and :func:`listing`."""

    kinds: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    listings: dict[str, str] = field(default_factory=dict)

    def holds(self) -> bool:
        """Whether every answer is still the same."""
        return (
            all(kind(path) == found for path, found in self.kinds.items())
            and all(content(path) == found for path, found in self.contents.items())
            and all(listing(path) == found for path, found in self.listings.items())
        )

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return it as JSON."""
        return {"kinds": self.kinds, "contents": self.contents, "listings": self.listings}

    @classmethod
    def from_json(cls, value: Mapping[str, dict[str, str]]) -> Seen:
        """Return what :meth:`as_json` gave.

        Raises:
            KeyError: something is missing.
        """
        return cls(kinds=value["kinds"], contents=value["contents"], listings=value["listings"])
