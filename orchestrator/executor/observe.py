"""Records, in the worker, what user code touches: sources, distributions, files, variables."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from orchestrator.errors import StageError, nearest
from orchestrator.executor.imported import classify, file_of
from orchestrator.plan.observed import Observer, variable
from orchestrator.plan.places import Places
from orchestrator.plan.sources import is_own, is_standard_library

_IGNORED_ROOTS: Final = ("/proc/", "/sys/", "/dev/")
_CODE_SUFFIXES: Final = (".py", ".pyc", ".so", ".pth")


class ChangedError(Exception):
    """Something that user code read was written while the action ran; its result means nothing."""


class Recorder:
    """Implements :class:`orchestrator.stages.base.Observations`."""

    def __init__(
        self,
        base: Path,
        store: Path,
        observer: Observer,
        *,
        search_path: list[str],
        declared: Mapping[str, Path],
        begun_ns: int,
    ) -> None:
        """Record for one action.

        Args:
            base: The directory that relative paths start from.
            store: The store; what is read there is an input of the action already.
            observer: Digests what is recorded.
            search_path: Where modules are found.
            declared: The declared files; their digests are in the key already.
            begun_ns: When the action began, in nanoseconds since 1970.
        """
        self._base = base
        self._store = store
        self._observer = observer
        self._search_path = search_path
        self._declared = tuple(declared.values())
        self._places = Places(base, declared)
        self._begun_ns = begun_ns
        self._modules: set[str] = set()
        self._files: set[Path] = set()
        self._absent: set[Path] = set()
        self._written: set[Path] = set()
        self._listed: set[Path] = set()
        self._variables: set[str] = set()
        self._recording = 0
        self._hooked = False

    def importing(self, function: str) -> Callable[..., Any]:
        """Import ``package.module:attribute`` and record where it came from.

        Raises:
            StageError: the module or attribute does not exist, or the import fails.
        """
        name, _, attribute = function.partition(":")
        with self.calling():
            try:
                module = importlib.import_module(name)
            except Exception as exc:
                raise _import_error(function, name, exc) from exc
        self._modules.add(name)
        found: Any = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise StageError(
                    f"module '{name}' has no '{attribute}'",
                    where=function,
                    hint=nearest(part, dir(found)) or f"it is read from {module.__file__}",
                )
            found = getattr(found, part)
        if not callable(found):
            raise StageError(f"'{attribute}' in module '{name}' is not callable", where=function)
        return found  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Record opened files, listings, variables and imported modules inside the block."""
        if not self._hooked:
            sys.addaudithook(self._audit)
            self._hooked = True
        with self._native_reads(), self._variable_reads():
            before = set(sys.modules)
            self._recording += 1
            try:
                yield
            finally:
                self._recording -= 1
                self._modules |= set(sys.modules) - before

    def file(self, path: Path) -> Path:
        """Record that *path*, a file or a directory with all below it, was read; return it."""
        self._files.add(Path(path).absolute())
        return path

    def record(self) -> dict[str, Any]:
        """Return everything recorded; see :mod:`orchestrator.plan.observed` for the parts.

        Raises:
            ChangedError: a source or file was written after the action had begun.
        """
        code = classify(self._modules, self._search_path)
        # A module that an import now would not load from there (code loaded it by its path, say)
        # can only be looked at again as a file.
        found = [
            name for name, path in code.local.items() if self._observer.place(name) == str(path)
        ]
        hidden = {path for name, path in code.local.items() if name not in found}
        files = {
            path
            for path in (_no_modules(self._files) | hidden) - self._written
            if not any(path.is_relative_to(declared) for declared in self._declared)
        }
        for path in sorted(set(code.local.values()) | files):
            self._check_unchanged(path)
        read = {self._places.name(path): self._digest(path) for path in sorted(files)}
        missing = {path for path in self._absent if not path.exists()}
        return {
            "modules": {name: self._observer.module(name) for name in sorted(found)},
            "places": {name: self._places.name(code.local[name]) for name in sorted(found)},
            "distributions": {
                name: self._observer.distribution(name) for name in sorted(code.distributions)
            },
            "origins": code.origins,
            "absent": sorted(code.absent),
            "files": read | {self._places.name(path): "" for path in sorted(missing)},
            "listings": {
                self._places.name(path): self._observer.listing(str(path))
                for path in sorted(self._listed)
                if path.is_dir()
            },
            "environment": {name: variable(name) for name in sorted(self._variables)},
        }

    def _digest(self, path: Path) -> str:
        return self._observer.file(str(path)) if path.exists() else ""

    def _check_unchanged(self, path: Path) -> None:
        if not path.is_file():
            return
        stat = path.stat()
        if max(stat.st_mtime_ns, stat.st_ctime_ns) > self._begun_ns:
            raise ChangedError(f"{path} was written while the action ran")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._recording or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if event == "open":
            flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            path = Path(os.fsdecode(args[0])).absolute()
            if flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
                self._written.add(path)  # a product of the code, no input of it
            else:
                self._opened(path)
        elif event in ("os.listdir", "os.scandir"):
            self._looked_into(Path(os.fsdecode(args[0])).absolute())
        elif event == "ctypes.dlopen" and os.sep in os.fsdecode(args[0]):
            self._opened(Path(os.fsdecode(args[0])).absolute())

    def _opened(self, path: Path) -> None:
        text = str(path)
        ignored = (
            text in self._search_path
            or text.startswith(_IGNORED_ROOTS)
            or path.is_relative_to(self._store)
            or any(part.endswith((".dist-info", ".egg-info")) for part in path.parts)
            or "__pycache__" in path.parts
            or (path.suffix in _CODE_SUFFIXES and _installed(path))
            or is_standard_library(path)
        )
        if not ignored and path.is_file():
            self._files.add(path)
        elif not ignored and not path.exists():
            self._absent.add(path)

    def _looked_into(self, path: Path) -> None:
        """Record a listing that user code asked for; the import system's own are of no account."""
        if _local_caller() and not (
            _installed(path) or is_standard_library(path) or path.is_relative_to(self._store)
        ):
            self._listed.add(path)

    @contextlib.contextmanager
    def _variable_reads(self) -> Iterator[None]:
        """Record the environment variables that local code asks for."""
        kind = type(os.environ)
        original = kind.__getitem__

        def recording(environ: Any, name: Any) -> Any:
            if _local_caller():
                self._variables.add(name)
            return original(environ, name)

        setattr(kind, "__getitem__", recording)  # noqa: B010  # a method is no assignable field
        try:
            yield
        finally:
            setattr(kind, "__getitem__", original)  # noqa: B010

    @contextlib.contextmanager
    def _native_reads(self) -> Iterator[None]:
        """safetensors opens files in native code, which no audit hook sees."""
        module = sys.modules.get("safetensors") or _optional("safetensors")
        if module is None:
            yield
            return
        original = module.safe_open

        def recording(filename: Any, *args: Any, **kwargs: Any) -> Any:
            self._opened(Path(filename).absolute())
            return original(filename, *args, **kwargs)

        holders = [
            other
            for other in list(sys.modules.values())
            if isinstance(other, ModuleType) and vars(other).get("safe_open") is original
        ]
        for holder in holders:
            setattr(holder, "safe_open", recording)  # noqa: B010  # a module has no such field
        try:
            yield
        finally:
            for other in list(sys.modules.values()):
                if isinstance(other, ModuleType) and vars(other).get("safe_open") is recording:
                    setattr(other, "safe_open", original)  # noqa: B010


def _no_modules(files: set[Path]) -> set[Path]:
    """Return *files* without those of imported modules."""
    if not files:
        return files
    return files - {path for name in list(sys.modules) if (path := file_of(name)) is not None}


def _installed(path: Path) -> bool:
    return "site-packages" in path.parts or "dist-packages" in path.parts


def _local_caller() -> bool:
    """Whether the innermost frame that is neither ours nor the standard library's is local code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return False
        path = Path(name)
        if name != __file__ and not name.startswith("<") and not is_standard_library(path):
            return not _installed(path) and not _own(frame)
        frame = frame.f_back
    return False


def _own(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return is_own(module)


def _import_error(function: str, name: str, exc: Exception) -> StageError:
    missing = getattr(exc, "name", None)
    if isinstance(exc, ModuleNotFoundError) and missing and name.startswith(missing):
        return StageError(
            f"there is no module '{missing}'",
            where=function,
            hint="modules are found in the current directory and in the environment; "
            "run from the directory that holds it, or install it",
        )
    line = _line_of(exc)
    return StageError(
        f"importing '{name}' failed: {type(exc).__name__}: {exc}{line}", where=function
    )


def _line_of(exc: Exception) -> str:
    trace, place = exc.__traceback__, ""
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        own = path == __file__ or path.startswith("<")
        if not own and not is_standard_library(Path(path)):
            place = f" ({path}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _optional(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
