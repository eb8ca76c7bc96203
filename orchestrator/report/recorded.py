"""An experiment directory as it was left: its manifest, and the store that it was built in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.locations import home_expanded
from orchestrator.report.manifest import NAME, read_manifest
from orchestrator.store.store import default_directory

_DIGEST_LETTERS = 64


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One experiment directory.

    Attributes:
        directory: Where it lies.
        manifest: Its ``manifest.json``.
        store: The store that it was built in; None when that is not there any more.
    """

    directory: Path
    manifest: dict[str, Any]
    store: Path | None

    @property
    def actions(self) -> list[dict[str, Any]]:
        """The manifest's entries, one an action, in the order of the chain."""
        return list(self.manifest["actions"])


def experiments(directory: Path) -> list[Path]:
    """Return *directory* if it is an experiment, or the experiments of the sweep in it.

    Raises:
        UsageError: there is no experiment.
    """
    if not directory.is_dir():
        raise UsageError(
            "no such directory",
            where=str(directory),
            hint="give an experiment directory, below outputs/",
        )
    below = sorted(path.parent for path in directory.glob(f"*/{NAME}"))
    if below:
        return below
    if not (directory / NAME).is_file():
        raise UsageError(
            f"this is no experiment directory (it has no {NAME})",
            where=str(directory),
            hint="give a directory that 'orchestrate build' made, below outputs/",
        )
    return [directory]


def recorded(directory: Path) -> Recorded:
    """Read an experiment directory.

    Raises:
        UsageError: it is none, or its manifest is damaged or of a newer schema.
    """
    try:
        manifest = read_manifest(directory)
    except OrchestrateError as exc:
        raise UsageError(exc.message, where=exc.where, hint=exc.hint) from exc
    actions = manifest.get("actions") if isinstance(manifest, dict) else None
    if not isinstance(actions, list) or not all(_is_action(one) for one in actions):
        raise UsageError(
            "the manifest cannot be read: it lists no actions",
            where=str(directory / NAME),
            hint="build the experiment again",
        )
    return Recorded(directory=directory, manifest=manifest, store=_store(directory, manifest))


def makers(actions: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the roles that made each tree, by its digest: two may give the same bytes."""
    found: dict[str, list[str]] = {}
    for entry in actions:
        for digest in entry["outputs"].values():
            found.setdefault(digest, []).append(str(entry["role"]))
    return found


def _is_action(value: Any) -> bool:
    kept = ("role", "stage", "status", "key", "created", "outputs", "values", "tools")
    return isinstance(value, dict) and all(name in value for name in kept)


def _store(directory: Path, manifest: dict[str, Any]) -> Path | None:
    """Return the store that the artifacts lead to, or else the one that was configured."""
    linked = [
        path.readlink() for path in sorted((directory / "artifacts").glob("*")) if path.is_symlink()
    ]
    # ROOT/trees/ab/<digest>, as orchestrator/store/store.py lays it out.
    roots = [link.parents[2] for link in linked if len(link.name) == _DIGEST_LETTERS]
    configured = (manifest.get("config") or {}).get("cache", {}).get("dir")
    roots.append(home_expanded(configured) if configured else default_directory())
    return next((root for root in roots if (root / "SCHEMA").is_file()), None)
