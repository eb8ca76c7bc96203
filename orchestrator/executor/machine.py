"""Machine-wide locks: of the machine, which a benchmark holds alone, and one for each GPU."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.errors import StoreError
from orchestrator.store.locks import Lock, try_lock

#: Where processes meet whatever their TMPDIR says: a GPU is one for all of them.
_COMMON: Final = Path("/tmp")  # noqa: S108  (the directory below is checked to be our own)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


class MachineLock:
    """Shared while this process runs actions, exclusive while it measures."""

    def __init__(self) -> None:
        self._path = _private_directory() / "machine.lock"
        self._lock: Lock | None = None
        self._exclusive = False

    def hold(self, *, exclusive: bool) -> bool:
        """Take the lock in the mode wanted; return whether it is held now."""
        if self._lock is not None and self._exclusive == exclusive:
            return True
        self.release()
        self._lock = try_lock(self._path, shared=not exclusive)
        self._exclusive = exclusive
        return self._lock is not None

    @property
    def descriptor(self) -> list[int]:
        """The descriptor to hand to a worker, so that the lock lives as long as the work."""
        return [] if self._lock is None else [self._lock.descriptor]

    def release(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def try_devices(devices: Sequence[str], *, alone: bool) -> tuple[str, Lock] | None:
    """Take the lock of a GPU, machine-wide; None while somebody's use of each of them forbids.

    Args:
        devices: UUIDs; the first that can be had is taken.
        alone: Builds and measurements hold it alone. Runs share it, and rather take one that is
            idle.

    Returns:
        The UUID of the one that was taken, and its lock.
    """
    wanted = devices if alone else sorted(devices, key=lambda name: not _is_idle(name))
    for name in wanted:
        lock = try_lock(_place(name), shared=not alone)
        if lock is not None:
            return name, lock
    return None


def _place(device: str) -> Path:
    name = re.sub(r"[^\w-]", "_", device)
    return _private_directory(_COMMON) / f"gpu-{name}.lock"


def _is_idle(device: str) -> bool:
    lock = try_lock(_place(device))
    if lock is None:
        return False
    lock.release()
    return True


def _private_directory(folder: Path | None = None) -> Path:
    """A directory in the temporary *folder* that belongs to this user alone.

    Raises:
        StoreError: somebody else's directory or a link has that name.
    """
    path = (folder or Path(tempfile.gettempdir())) / f"orchestrate-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    stat = path.lstat()
    if path.is_symlink() or stat.st_uid != os.getuid():
        raise StoreError(
            "this name in the temporary folder belongs to somebody else",
            where=str(path),
            hint="remove it, or set TMPDIR to a folder of your own",
        )
    return path
