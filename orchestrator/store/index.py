"""The local index: remembered digests of files, rebuildable from the files at any time.

A ``diskcache.Cache`` with eviction off. diskcache unpickles values and keys whose row says so
(CVE-2025-69872), so :class:`StrictDisk` refuses that mode before the base class sees it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import diskcache

from orchestrator.store import digests

_PICKLE_MODE: Final = 4  # diskcache.core.MODE_PICKLE
_FINE_GUARD_NS: Final = 50_000_000
_COARSE_GUARD_NS: Final = 2_000_000_000
# What a new database cures. Locked, read-only or full ones are left alone: others may use them.
_DAMAGED: Final = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StrictDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """A diskcache ``Disk`` for text, bytes and numbers that neither pickles nor unpickles."""

    def put(self, key: Any) -> Any:
        """Store a key; only text."""
        if type(key) is not str:
            raise TypeError(f"index keys are text, got {type(key).__name__}")
        return super().put(key)

    def get(self, key: Any, raw: Any) -> Any:
        """Return a stored key; a pickled one is refused."""
        if not raw:
            raise ValueError("pickled key in the index: refused")
        return super().get(key, raw)

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        """Store a value; only text, bytes, integers and floats."""
        if type(value) not in (str, bytes, int, float):
            raise TypeError(f"index values are text, bytes or numbers, got {type(value).__name__}")
        return super().store(value, read, key=key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        """Return a stored value; a pickled one is refused."""
        if mode == _PICKLE_MODE:
            raise ValueError("pickled value in the index: refused")
        return super().fetch(mode, filename, value, read)


class Index:
    """Digests of files, remembered by (path, size, mtime, ctime, inode).

    A digest is trusted only when the file was last changed clearly before it was read: a change
    within the clock's granularity would leave the same time stamps (the racy-timestamp problem of
    git and ccache).
    """

    def __init__(self, directory: Path | None, *, timeout_s: float = 10.0) -> None:
        """Open nothing yet. Without a *directory* it remembers for this process only."""
        self._directory = directory
        self._timeout_s = timeout_s
        self._cache: Any = None
        self._unusable: Exception | None = None
        self._seen: dict[str, tuple[str, str]] = {}

    def file(self, path: Path) -> str:
        """Return the SHA-256 of *path*'s bytes.

        Raises:
            OSError: the file cannot be read.
        """
        return self._digest("sha256", path, digests.of_file)

    def source(self, path: Path) -> str:
        """Return the digest of a Python file's syntax tree (see :func:`digests.of_source`)."""
        return self._digest("ast", path, digests.of_source)

    def directory(self, root: Path) -> str:
        """Return the digest of a directory: relative paths and contents of all files below it."""
        listing = {str(path.relative_to(root)): self.file(path) for path in files_below(root)}
        return digests.of_json("directory", listing)

    def get(self, key: str) -> str | None:
        """Return remembered text, or None."""
        if self._directory is None:
            return None
        try:
            found = self._open().get(key)
        except (sqlite3.Error, ValueError, OSError, diskcache.Timeout) as exc:
            self._discard_if_damaged(exc)
            return None
        return found if isinstance(found, str) else None

    def set(self, key: str, value: str, *, keep_s: float | None = None) -> None:
        """Remember text, for *keep_s* seconds where that is given.

        An index that cannot be written costs time, never a result.
        """
        if self._directory is None:
            return
        try:
            self._open().set(key, value, expire=keep_s)
        except (sqlite3.Error, OSError, diskcache.Timeout) as exc:
            self._discard_if_damaged(exc)

    def drop_expired(self) -> None:
        """Drop what was to be kept for a time that is over."""
        try:
            self._open().expire()
        except (sqlite3.Error, ValueError, OSError, diskcache.Timeout) as exc:
            self._discard_if_damaged(exc)

    def close(self) -> None:
        """Close the database."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _digest(self, kind: str, path: Path, compute: Callable[[Path], str]) -> str:
        key = f"{kind}:{path}"
        stat = path.stat()
        state = _stat_text(stat)
        remembered = self._seen.get(key) or _split(self.get(key))
        if remembered is not None and remembered[0] == state:
            self._seen[key] = remembered
            return remembered[1]
        now = time.time_ns()
        digest = compute(path)
        changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
        coarse = stat.st_mtime_ns % 1_000_000_000 == 0
        if now - changed > (_COARSE_GUARD_NS if coarse else _FINE_GUARD_NS):
            self._seen[key] = (state, digest)
            self.set(key, f"{state} {digest}")
        return digest

    def _open(self) -> Any:
        if self._unusable is not None:
            raise self._unusable
        if self._cache is None:
            try:
                self._cache = self._connect()
            except (sqlite3.DatabaseError, ValueError) as exc:
                if not self._discard_if_damaged(exc):
                    self._unusable = exc  # diskcache waits a minute for a lock: once is enough
                    raise
                self._cache = self._connect()
        return self._cache

    def _discard_if_damaged(self, exc: Exception) -> bool:
        """A damaged index holds nothing that the files do not: the next use begins a new one."""
        if self._directory is None:
            return False
        code = getattr(exc, "sqlite_errorcode", None)
        if not isinstance(exc, ValueError) and (code is None or code & 0xFF not in _DAMAGED):
            return False
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._cache = None
        shutil.rmtree(self._directory, ignore_errors=True)
        return True

    def _connect(self) -> Any:
        assert self._directory is not None, "without a directory nothing is opened"
        self._directory.mkdir(parents=True, exist_ok=True)
        return diskcache.Cache(
            os.fspath(self._directory),
            disk=StrictDisk,
            eviction_policy="none",
            size_limit=2**62,
            cull_limit=0,
            timeout=self._timeout_s,
        )


def files_below(root: Path) -> list[Path]:
    """Return all files below a directory, sorted; links are followed, but no loops."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        stat = os.stat(folder)  # noqa: PTH116  # a string, many times
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        found += [path for name in names if (path := Path(folder, name)).is_file()]
    return sorted(found)


def identity(path: Path) -> str:
    """Return what changes whenever a file, or any file below a directory, is written.

    Raises:
        OSError: it cannot be looked at.
    """
    if not path.is_dir():
        return _stat_text(path.stat())
    below = [f"{file.relative_to(path)} {_stat_text(file.stat())}" for file in files_below(path)]
    return digests.of_json("identity", below)


def _stat_text(stat: os.stat_result) -> str:
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{stat.st_dev}"


def _split(text: str | None) -> tuple[str, str] | None:
    if text is None or text.count(" ") != 1:
        return None
    return cast("tuple[str, str]", tuple(text.split(" ")))
