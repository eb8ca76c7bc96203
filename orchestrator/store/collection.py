"""Housekeeping: pins of experiment directories, verification, statistics, garbage collection."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.errors import StoreError
from orchestrator.store import digests
from orchestrator.store.failures import Failures
from orchestrator.store.files import write_durably
from orchestrator.store.locks import try_lock
from orchestrator.store.results import Result
from orchestrator.store.store import Store, explained

_FAILURES_KEPT_S: Final = 30 * 86400.0
_DIGEST: Final = re.compile("[0-9a-f]{64}")
# What :func:`write_durably` leaves when it is killed. Not inside trees: their names are a user's.
_UNFINISHED: Final = (
    "pins/.*",
    "trees/??/.*",
    "actions/??/.*",
    "observed/??/.*",
    "measurements/??/*/.*",
)


@dataclass(kw_only=True)
class Pins:
    """Trees that experiment directories link to, and pins that could not be read."""

    trees: set[str] = field(default_factory=set)
    unreadable: list[Path] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """How much a store holds; sizes in bytes."""

    directory: str
    results: int
    measurements: int
    trees: int
    bytes: int
    pinned_trees: int
    stages: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection removed and kept; sizes in bytes."""

    removed_results: int
    removed_trees: int
    freed_bytes: int
    kept_bytes: int
    unreadable_pins: list[str]


def pin(store: Store, experiments: Mapping[Path, Iterable[str]]) -> None:
    """Keep the trees of each experiment as long as its directory exists.

    Args:
        store: Has the trees.
        experiments: The digests of trees by experiment directory, at least one. One file holds
            them all: a sweep over hundreds of variants waits for the disk once.

    Raises:
        StoreError: the store cannot be written.
    """
    content = {str(directory): sorted(set(trees)) for directory, trees in experiments.items()}
    # Named by all of them: a new experiment in the place of one that was removed has its own pin.
    name = digests.of_json("pin", list(content))
    with explained(store.root):
        write_durably(store.root / "pins" / f"{name}.json", json.dumps(content, indent=1).encode())


def pins(store: Store, *, prune: bool = False) -> Pins:
    """Return what is pinned; with *prune*, drop the pins of directories that are gone.

    A pin that cannot be read is kept and reported: nobody knows what it protects.
    """
    found = Pins()
    for path in sorted((store.root / "pins").glob("*.json")):
        try:
            pinned = _pinned(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found.unreadable.append(path)
            continue
        for tree in pinned:
            found.trees.update(store.trees.closure(tree))
        if prune and not pinned:
            path.unlink(missing_ok=True)
    return found


def _pinned(path: Path) -> set[str]:
    """Return what a pin keeps: the trees of the experiments that are still there.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it cannot be read, or is damaged.
    """
    found: set[str] = set()
    for directory, trees in json.loads(path.read_bytes()).items():
        if not all(_DIGEST.fullmatch(tree) for tree in trees):
            raise ValueError("a pin names trees by their digests")
        if not _gone(Path(directory)):
            found.update(trees)
    return found


def stats(store: Store) -> Stats:
    """Return how much the store holds."""
    stages: dict[str, int] = {}
    for result in store.results.all():
        stages[result.stage] = stages.get(result.stage, 0) + 1
    trees = list(store.trees.all())
    measurements = sum(1 for _ in (store.root / "measurements").rglob("[0-9]*.json"))
    return Stats(
        directory=str(store.root),
        results=sum(stages.values()) - measurements,
        measurements=measurements,
        trees=len(trees),
        bytes=sum(_own_bytes(store, tree) for tree in trees),
        pinned_trees=len(pins(store).trees),
        stages=dict(sorted(stages.items())),
    )


def verify(store: Store) -> list[str]:
    """Read every byte of the store and return one sentence for each thing that is damaged."""
    problems = [
        f"tree {tree}: {problem}"
        for tree in store.trees.all()
        if (problem := store.trees.check(tree, thorough=True)) is not None
    ]
    problems += [f"result {path.name}: cannot be read" for path in store.results.damaged()]
    for result in store.results.all():
        problems += [
            f"{result.stage} {result.key}: its output '{name}' is missing"
            for name, tree in result.outputs.items()
            if store.trees.entries(tree) is None or not store.trees.path(tree).is_dir()
        ]
    return problems


def forget(store: Store, selector: str) -> list[Result]:
    """Forget the results whose stage is *selector* or whose key begins with it (8 digits or more).

    Raises:
        StoreError: nothing matches.
    """
    matching = [
        result
        for result in store.results.all()
        if result.stage == selector or (len(selector) >= 8 and result.key.startswith(selector))
    ]
    with explained(store.root):
        failed = Failures(store.root).forget_matching(selector)
    if not matching and not failed:
        stages = ", ".join(sorted({result.stage for result in store.results.all()})) or "none"
        raise StoreError(
            f"no result matches '{selector}'",
            where="cache forget",
            hint=f"give a stage ({stages}) or at least 8 digits of a key",
        )
    with explained(store.root):
        for result in matching:
            store.results.forget(result.key)
    return matching


def collect(store: Store, max_bytes: int) -> Collected:
    """Remove unreferenced trees and the least recently used results until *max_bytes* are kept.

    Pinned trees always stay.

    Raises:
        StoreError: another run is using the store, or it cannot be written.
    """
    with explained(store.root):
        lock = try_lock(store.root / "locks" / "store")
        if lock is None:
            raise StoreError(
                "another run is using the store", where=str(store.root), hint="try again after it"
            )
        try:
            return _collect(store, max_bytes)
        finally:
            lock.release()


def _collect(store: Store, max_bytes: int) -> Collected:
    _sweep_temporary(store)
    Failures(store.root).prune(before=time.time() - _FAILURES_KEPT_S)
    store.index.drop_expired()
    pinned = pins(store, prune=True)
    needs: dict[str, set[str]] = {}
    for result in store.results.all():  # several measurements may share a key
        needs.setdefault(result.key, set()).update(_trees_of(store, result))
    sizes = {tree: _own_bytes(store, tree) for tree in store.trees.all()}
    freed = removed_trees = removed_results = 0
    users: dict[str, int] = {}
    for trees in needs.values():
        for tree in trees:
            users[tree] = users.get(tree, 0) + 1

    def drop(tree: str) -> None:
        nonlocal freed, removed_trees
        if tree in sizes and tree not in pinned.trees and not pinned.unreadable:
            store.trees.remove(tree)
            freed += sizes.pop(tree)
            removed_trees += 1

    for tree in [tree for tree in sizes if not users.get(tree)]:
        drop(tree)
    for key in sorted(needs, key=lambda key: last_used(store, key)):
        if sum(sizes.values()) <= max_bytes or pinned.unreadable:
            break
        if needs[key] <= pinned.trees:
            continue  # forgetting it would free nothing
        store.results.forget(key)
        removed_results += 1
        for tree in needs[key]:
            users[tree] -= 1
            if users[tree] == 0:
                drop(tree)
    return Collected(
        removed_results=removed_results,
        removed_trees=removed_trees,
        freed_bytes=freed,
        kept_bytes=sum(sizes.values()),
        unreadable_pins=[str(path) for path in pinned.unreadable],
    )


def touch(store: Store, keys: Iterable[str]) -> None:
    """Note that the results of *keys* were used now (for the order of collection)."""
    for key in keys:
        with contextlib.suppress(OSError):
            os.utime(store.root / "actions" / key[:2] / f"{key}.json")


def last_used(store: Store, key: str) -> float:
    """Return the Unix time at which a result was last used, in seconds."""
    try:
        return (store.root / "actions" / key[:2] / f"{key}.json").stat().st_mtime
    except OSError:
        return time.time()


def _trees_of(store: Store, result: Result) -> set[str]:
    found: set[str] = set()
    for tree in (*result.outputs.values(), result.log):
        if tree:
            found.update(store.trees.closure(tree))
    return found


def _own_bytes(store: Store, tree: str) -> int:
    return sum(entry.size for entry in store.trees.entries(tree) or [])


def _sweep_temporary(store: Store) -> None:
    """Remove what killed sessions left; a live session still holds its lock."""
    root = store.root / "tmp"
    for lock_path in sorted(root.glob("session-*.lock")):
        lock = try_lock(lock_path)
        if lock is None:
            continue
        shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
        lock_path.unlink(missing_ok=True)
        lock.release()
    for path in root.iterdir():
        live = path.with_suffix(".lock").exists() or path.suffix == ".lock"
        if path.is_dir() and not live:
            shutil.rmtree(path, ignore_errors=True)
    for pattern in _UNFINISHED:
        for path in store.root.glob(pattern):
            path.unlink(missing_ok=True)
    for path in (store.root / "locks").glob("*.key"):
        if (lock := try_lock(path)) is not None:  # held: an orphaned worker is still building
            path.unlink(missing_ok=True)
            lock.release()


def _gone(directory: Path) -> bool:
    """Whether *directory* is certainly gone; one that may not be looked at counts as there."""
    try:
        directory.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
