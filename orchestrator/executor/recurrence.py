"""In the worker: whether a failure would come again, and what it depended on.

In doubt it would not: then the action runs again, which costs time and never tells what is not so.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import OrchestrateError, WorkerLostError
from orchestrator.executor.observe import ChangedError, Recorder
from orchestrator.plan.observed import KEYED
from orchestrator.plan.sources import find_source, is_own, is_standard_library

#: How often a toolchain's refusal must come alike: builders time kernels, and may find none once.
_TOOLCHAIN: Final[Mapping[str, int]] = {"refused": 1, "builder": 2, "bug": 2}
# What native code says of the machine's state rather than of its input.
_PASSING: Final = re.compile(
    r"out of memory|not enough memory|insufficient memory|DefaultCPUAllocator|bad.?alloc"
    r"|(can(no|')?t|failed to|unable to) allocate|allocation fail|can't start new thread"
    r"|no space left|too many open files|timed? ?out",
    re.IGNORECASE,
)


class Witness:
    """Sees what an action asks for, so that its failure can be told again without running it."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._recorder: Recorder | None = None
        self._unchanged: Callable[[], None] = _nothing
        self._search_path: list[str] = []

    def watch(
        self, recorder: Recorder | None, search_path: list[str], unchanged: Callable[[], None]
    ) -> None:
        """Begin.

        Args:
            recorder: Records what user code touches; None for a stage that runs none.
            search_path: Where modules are found.
            unchanged: Raises ChangedError when a declared file was written since it was digested.
        """
        self._recorder, self._unchanged = recorder, unchanged
        self._search_path = list(search_path)
        if recorder is not None:
            sys.addaudithook(self._hear)

    def testimony(self, exc: BaseException) -> dict[str, Any]:
        """Return ``needed`` and ``observed`` of a failure.

        ``needed`` is how often it must come alike to be remembered; 0: it must not be.
        """
        try:
            needed = _needed(exc)
            if needed:
                self._unchanged()
            if not needed or self._recorder is None:
                return {"needed": needed, "observed": None}
            observed = self._observed(self._recorder, exc)
        except Exception:  # noqa: BLE001  # whatever it is, then nothing is known
            return {"needed": 0, "observed": None}
        known = any(observed[part] for part in (*KEYED, "absent"))
        return {"needed": needed if known else 0, "observed": observed if known else None}

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "import" and args and isinstance(args[0], str):
            self._asked.add(args[0])

    def _observed(self, recorder: Recorder, exc: BaseException) -> dict[str, Any]:
        """Return what was recorded, with what failed imports depended on.

        A module whose import fails is not in ``sys.modules``, where the recorder looks.
        """
        absent = set()
        for name in self._asked | set(_missing(exc)):
            if name in sys.modules or is_own(name):
                continue
            if (path := find_source(name, self._search_path)) is None:
                absent.add(name)
            elif path.is_file():
                recorder.file(path)
        for path in _sources(exc):
            recorder.file(path)
        record = recorder.record()
        return {**record, "absent": sorted({*record["absent"], *absent})}


def _needed(exc: BaseException) -> int:
    """Return how often *exc* must come alike to be expected again; 0: it is not to be expected."""
    chain = list(_chain(exc))
    if any(_passes(one) for one in chain):
        return 0
    kind = getattr(exc, "kind", None)  # of a toolchain's refusal
    if kind is None:
        return 1
    # A library that a plugin needs is no part of any key.
    if getattr(exc, "where", "") == "target.plugins":
        return 0
    return _TOOLCHAIN.get(str(kind), 0)


def _passes(exc: BaseException) -> bool:
    """Whether it tells of something that is in no key: the machine, the world, somebody's wish."""
    if isinstance(exc, ImportError) and not isinstance(exc, ModuleNotFoundError):
        return True  # "cannot import name": a submodule may be missing, nobody knows of which kind
    lost = (WorkerLostError, ChangedError, MemoryError, OSError, KeyboardInterrupt)
    if isinstance(exc, lost):
        return True
    text = exc.message if isinstance(exc, OrchestrateError) else str(exc)
    return _PASSING.search(text) is not None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc* and what it came from, as a traceback shows it."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _missing(exc: BaseException) -> Iterator[str]:
    for one in _chain(exc):
        if isinstance(one, ModuleNotFoundError) and one.name:
            yield one.name


def _sources(exc: BaseException) -> Iterator[Path]:
    """Yield the files of a user's code that the error passed through."""
    for one in _chain(exc):
        if isinstance(one, SyntaxError) and one.filename:
            yield from _user_file(one.filename)
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if not is_own(str(frame.f_globals.get("__name__", ""))):
                yield from _user_file(frame.f_code.co_filename)


def _user_file(name: str) -> Iterator[Path]:
    path = Path(name)
    if path.is_absolute() and path.is_file() and not is_standard_library(path):
        yield path


def _nothing() -> None: ...


__all__ = ["Witness"]
