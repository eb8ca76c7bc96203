"""The memory control groups (cgroups v1 or v2) of this process: their limits, and whom they killed.

Source: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/self")
_VMSTAT: Final = Path("/proc/vmstat")
_UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, kw_only=True)
class MemoryGroup:
    """One control group.

    Attributes:
        directory: Where its files are.
        version: 1 or 2.
    """

    directory: Path
    version: int

    def room_bytes(self) -> int:
        """Return how much more its processes may use; 2**62 where nothing limits them."""
        two = self.version == 2
        limit = self._number("memory.max" if two else "memory.limit_in_bytes")
        used = self._number("memory.current" if two else "memory.usage_in_bytes")
        if limit is None or used is None or limit >= _UNLIMITED:
            return _UNLIMITED
        name = "inactive_file" if two else "total_inactive_file"
        given_back = self._field("memory.stat", name) or 0  # page cache goes when it must
        return max(0, limit - used + given_back)

    def kills(self) -> int | None:
        """Return how many of its processes the kernel killed for want of memory so far."""
        return self._field("memory.events" if self.version == 2 else "memory.oom_control")

    def _number(self, name: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self.directory / name).read_text())
        return None  # "max", or the root group of version 2, which has no such file

    def _field(self, name: str, field: str = "oom_kill") -> int | None:
        return _field(self.directory / name, field)


def groups(proc: Path | None = None) -> list[MemoryGroup]:
    """Return the memory groups that this process is in, the innermost first.

    *proc* is a process's directory below ``/proc``; by default this one's.
    """
    proc = proc or _PROC
    try:
        lines = (proc / "cgroup").read_text().splitlines()
        mounts = list(_mounts((proc / "mountinfo").read_text()))
    except OSError:
        return []
    found: list[MemoryGroup] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = 2 if not controllers else 1
        if version == 2 or "memory" in controllers.split(","):
            for at, root, mounted in mounts:
                if mounted == version:
                    found += _chain(at, Path(path), root, version)
    return [one for one in found if one.kills() is not None or one.room_bytes() < _UNLIMITED]


def _chain(mount: Path, path: Path, root: Path, version: int) -> list[MemoryGroup]:
    """Return the group at *path* and those around it, as far as *mount*, which shows *root*."""
    # In a container the mount may show another part of the tree: it is the container's own then.
    inner = path.relative_to(root) if path.is_relative_to(root) else Path()
    folders = dict.fromkeys([mount / inner, *(mount / one for one in inner.parents)])
    return [MemoryGroup(directory=folder, version=version) for folder in folders]


def kills() -> int | None:
    """Return a counter of what the kernel killed for want of memory around this process.

    None where the kernel does not tell.
    """
    counts = [count for group in groups() if (count := group.kills()) is not None]
    return counts[0] if counts else _field(_VMSTAT, "oom_kill")


class Kills:
    """Tells kills for want of memory from others, by the kernel's counter."""

    def __init__(self) -> None:
        """Begin to count."""
        self._seen = kills()

    def claim(self) -> bool | None:
        """Whether a worker that was just killed was killed for want of memory.

        Each kill is claimed once. None where the kernel does not tell.
        """
        now = kills()
        if now is None or self._seen is None:
            return None
        if now <= self._seen:
            return False
        self._seen += 1
        return True


def _mounts(text: str) -> Iterator[tuple[Path, Path, int]]:
    """Yield where the memory controller is mounted: mount point, its root, and the version."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, at = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield Path(at), Path(root), 2
        elif kind == "cgroup" and "memory" in options.split(","):
            yield Path(at), Path(root), 1


def _field(path: Path, field: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == field:
                return int(value)
    return None
