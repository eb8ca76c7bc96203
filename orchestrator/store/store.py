"""The store's facade: where everything lies, sessions, and clear errors when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from orchestrator.errors import StoreError
from orchestrator.store.files import write_durably
from orchestrator.store.index import Index
from orchestrator.store.locks import Lock, take, try_lock
from orchestrator.store.results import Result, Results
from orchestrator.store.trees import Trees

SCHEMA: Final = 1
#: Below the store: what makes actions faster and decides no result (timing caches).
SHARED: Final = "shared"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED: Final = (errno.EROFS, errno.EACCES, errno.EPERM)


def default_directory() -> Path:
    """Return ``$XDG_CACHE_HOME/orchestrate``, by default ``~/.cache/orchestrate``.

    Raises:
        StoreError: this user has no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # XDG Base Directory Specification 0.8: a relative path is invalid and to be ignored.
    if Path(base).is_absolute():
        return Path(base) / "orchestrate"
    try:
        return Path.home() / ".cache" / "orchestrate"
    except RuntimeError as exc:
        raise StoreError(
            "this user has no home directory, so there is no default place for the store",
            where="cache.dir",
            hint="set cache.dir=DIR, or the variable HOME or XDG_CACHE_HOME",
        ) from exc


@contextlib.contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into a :class:`StoreError`.

    Raises:
        StoreError: disk full, read-only, not permitted or otherwise refused.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StoreError(
                f"no space left for the store ({exc.strerror})",
                where=str(root),
                hint="free some space, run 'orchestrate cache gc --max-size 10GiB', or set "
                "cache.dir=DIR on a larger disk; everything finished so far is kept",
            ) from exc
        if exc.errno in _DENIED:
            raise StoreError(
                f"the store cannot be written ({exc.strerror})",
                where=str(root),
                hint="make the directory writable, or set cache.dir=DIR to one that is",
            ) from exc
        raise StoreError(
            f"the store cannot be used ({exc.strerror or exc})",
            where=str(exc.filename or root),
            hint="set cache.dir=DIR to a directory on a local disk",
        ) from exc


class Store:
    """One store on disk.

    Layout: ``trees/`` contents, ``actions/`` results, ``observed/`` what user code touched,
    ``measurements/``, ``pins/`` of experiment directories, ``locks/``, ``tmp/`` and ``index/``;
    ``shared/`` holds what makes actions faster and decides no result.
    """

    def __init__(self, root: Path) -> None:
        """Open the store at *root*, making it where it is not there.

        Raises:
            StoreError: it cannot be written, or belongs to a newer version of the tool.
        """
        self.root = root.expanduser().absolute()
        self.index = Index(self.root / "index")
        self.results = Results(self.root)
        self._open()
        self._scratch: Path | None = None
        self._locks: list[Lock] = []
        self.trees = Trees(self.root / "trees", self.root / "tmp", self.index)

    def _open(self) -> None:
        with explained(self.root):
            for name in ("trees", "actions", "observed", "measurements", "pins", "locks", "tmp"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            marker = self.root / "SCHEMA"
            if not marker.exists():
                write_durably(marker, f"{SCHEMA}\n".encode())
            found = marker.read_text().strip()
        if found != str(SCHEMA):
            raise StoreError(
                f"the store has schema {found}, this version reads {SCHEMA}",
                where=str(self.root),
                hint="upgrade orchestrate, or set cache.dir to another directory",
            )

    def begin(self) -> Path:
        """Start a session: keep collection away; return a directory for temporary files.

        Raises:
            StoreError: the store cannot be written.
        """
        with explained(self.root):
            self._locks.append(take(self.root / "locks" / "store", shared=True))
            name = f"session-{uuid.uuid4().hex}"
            self._locks.append(take(self.root / "tmp" / f"{name}.lock"))
            self._scratch = self.root / "tmp" / name
            self._scratch.mkdir(mode=0o700)  # requests in it may hold secrets
            return self._scratch

    def end(self) -> None:
        """End the session: remove its temporary files, release its locks. Safe to call twice."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.with_suffix(".lock").unlink(missing_ok=True)
            self._scratch = None
        for lock in self._locks:
            lock.release()
        self._locks.clear()
        self.index.close()

    def lock(self, key: str) -> Lock | None:
        """Return the lock of an action key, or None while another process is building it."""
        with explained(self.root):
            return try_lock(self.root / "locks" / f"{key}.key")

    def lookup(self, key: str) -> tuple[Result | None, str]:
        """Return the result of *key* if all its trees are whole, and a warning ('' if all is well).

        A damaged entry is a miss: it will be built again and put in the place of the damaged one.
        """
        result = self.results.get(key)
        if result is None:
            return None, ""
        for name, digest in result.outputs.items():
            problem = self.trees.check(digest)
            if problem is not None:
                return None, (
                    f"the stored {result.stage} '{name}' is damaged ({problem}): building it again"
                )
        return result, ""
