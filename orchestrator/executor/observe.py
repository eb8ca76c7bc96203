"""Records, in the worker, what user code touches: sources, distributions and opened files."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from orchestrator.errors import StageError, nearest
from orchestrator.plan.observed import Observer
from orchestrator.plan.sources import is_example, is_own, is_standard_library, record_path

_IGNORED_SUFFIXES: Final = (".py", ".pyc", ".so", ".pth")
_IGNORED_ROOTS: Final = ("/proc/", "/sys/", "/dev/")


class Recorder:
    """Implements :class:`orchestrator.stages.base.Observations`."""

    def __init__(self, base: Path, store: Path, observer: Observer) -> None:
        """Record for one action.

        Args:
            base: The directory that relative paths start from.
            store: The store; what is read there is an input of the action already.
            observer: Digests what is recorded.
        """
        self._base = base
        self._store = store
        self._observer = observer
        self._modules: set[str] = set()
        self._files: set[Path] = set()
        self._absent: set[Path] = set()
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
        """Record opened files and imported modules inside the block."""
        if not self._hooked:
            sys.addaudithook(self._audit)
            self._hooked = True
        before = set(sys.modules)
        self._recording += 1
        try:
            with self._native_reads():
                yield
        finally:
            self._recording -= 1
            self._modules |= set(sys.modules) - before

    def file(self, path: Path) -> Path:
        """Record that *path*, a file or a directory with all below it, was read; return it."""
        self._files.add(Path(path).absolute())
        return path

    def record(self) -> dict[str, Any]:
        """Return everything recorded.

        ``modules``, ``distributions`` and ``files`` have digests, '' for a file looked for in vain;
        ``origins`` says which distribution a newly imported package came from, so that one which
        shadows it is noticed.
        """
        local, packages = self._classify(self._modules)
        absent = {path for path in self._absent if not path.exists()}
        return {
            "origins": _origins(self._modules),
            "modules": {name: self._observer.module(name) for name in sorted(local)},
            "distributions": {name: self._observer.distribution(name) for name in sorted(packages)},
            "files": {
                self._relative(path): self._digest(path)
                for path in sorted(self._files | absent)
                if path.exists() or path in absent
            },
        }

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and self._recording and isinstance(args[0], str | bytes):
            flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            if flags & 0o3 == 0:  # O_RDONLY: what is only written is no input
                self._opened(Path(args[0] if isinstance(args[0], str) else args[0].decode()))

    def _opened(self, path: Path) -> None:
        path = path.absolute()
        text = str(path)
        ignored = (
            path.suffix in _IGNORED_SUFFIXES
            or text in sys.path
            or text.startswith(_IGNORED_ROOTS)
            or path.is_relative_to(self._store)
            or any(part.endswith((".dist-info", ".egg-info")) for part in path.parts)
            or is_standard_library(path)
        )
        if not ignored and path.is_file():
            self._files.add(path)
        elif not ignored and not path.exists():
            self._absent.add(path)

    @contextlib.contextmanager
    def _native_reads(self) -> Iterator[None]:
        """safetensors opens files in native code, which no audit hook sees."""
        module = sys.modules.get("safetensors") or _optional("safetensors")
        if module is None:
            yield
            return
        original = module.safe_open

        def recording(filename: Any, *args: Any, **kwargs: Any) -> Any:
            self._opened(Path(filename))
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

    def _digest(self, path: Path) -> str:
        return self._observer.file(self._relative(path)) if path.exists() else ""

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._base) if path.is_relative_to(self._base) else path)

    def _classify(self, names: set[str]) -> tuple[set[str], set[str]]:
        """Split modules into local ones (with what they import in turn) and distributions."""
        local: set[str] = set()
        packages: set[str] = set()
        queue, seen = sorted(names), set(names)
        while queue:
            name = queue.pop()
            path = _file_of(name)
            if path is None or is_own(name) or is_standard_library(path):
                continue
            owners = [] if is_example(name) else _owners(name, path)
            if owners:
                packages.update(owners)
                continue
            local.add(name)
            parents = {name.rpartition(".")[0]} - {""}
            for other in _imports(path, name) | parents:
                if other not in seen and other in sys.modules:
                    seen.add(other)
                    queue.append(other)
        return local, packages


def _origins(names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names):  # a package comes before its modules
        path, top = _file_of(name), name.partition(".")[0]
        seen = any(other.partition(".")[0] == top for other in found)
        if path is None or seen or is_own(name) or is_example(name) or is_standard_library(path):
            continue
        if owners := _owners(name, path):
            found[name] = owners[0]
    return found


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


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).absolute() if isinstance(file, str) else None


def _owners(name: str, path: Path) -> list[str]:
    """Return the distributions whose RECORD lists the module's file."""
    top = name.partition(".")[0]
    return [
        distribution
        for distribution in _distributions().get(top, ())
        if _records(distribution, path)
    ]


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {
        top: sorted(set(names))
        for top, names in importlib.metadata.packages_distributions().items()
    }


def _records(distribution: str, path: Path) -> bool:
    """Whether the RECORD of *distribution* lists the file *path*."""
    record, text = _record_text(distribution)
    if record is None or not path.is_relative_to(record.parent.parent):
        return False
    return f"\n{path.relative_to(record.parent.parent)}," in text


@functools.cache
def _record_text(distribution: str) -> tuple[Path | None, str]:
    record = record_path(distribution)
    return record, "" if record is None else f"\n{record.read_text(errors='replace')}"


def _imports(path: Path, name: str) -> set[str]:
    """Return the modules that a source file names in import statements, anywhere in it."""
    if path.suffix != ".py":
        return set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module or "") if part)
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return {part for module in found for part in _with_parents(module)}


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts)) if parts[0]]
