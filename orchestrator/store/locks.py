"""File locks (flock) that live as long as the work: a descriptor may be handed to a worker.

flock belongs to the open file description, so a lock whose descriptor was passed on is free only
when every holder has closed it or died.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """A held lock; release it with :meth:`release` or by ending every process that has it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        """Close this process's descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def take(path: Path, *, shared: bool = False) -> Lock:
    """Return the lock on *path*, waiting for it as long as it takes.

    Raises:
        OSError: the lock file cannot be made (read-only or full store).
    """
    return _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Return the lock on *path*, or None when another process holds it.

    Raises:
        OSError: the lock file cannot be made (read-only or full store).
    """
    try:
        return _lock(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _lock(path: Path, operation: int) -> Lock:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)
