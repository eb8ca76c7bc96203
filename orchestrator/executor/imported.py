"""Where the modules that user code imported come from: local sources or distributions."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.plan.sources import (
    find_source,
    is_example,
    is_own,
    is_standard_library,
    record_path,
)

#: What the warm server imports; see :mod:`orchestrator.executor.needs`.
PRELOADED: Final = frozenset(
    {
        *("numpy", "onnx", "onnxruntime", "onnxscript"),
        *("onnxsim", "pillow", "safetensors", "torch"),
    }
)
#: The name at the beginning of a requirement (PEP 508).
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(kw_only=True)
class Imported:
    """What a set of modules amounts to.

    Attributes:
        local: Modules that belong to no distribution, with what they import in turn, and their
            files.
        distributions: Names of distributions.
        absent: Modules that local sources ask for and that are not there (an optional import).
        origins: For each package from a distribution, which one it came from.
    """

    local: dict[str, Path] = field(default_factory=dict)
    distributions: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    origins: dict[str, str] = field(default_factory=dict)


def classify(names: Collection[str], search_path: Sequence[str]) -> Imported:
    """Follow the imports of *names* (imported modules) and sort what is found."""
    found = Imported(origins=_origins(set(names)))
    queue, seen = sorted(names), set(names)
    while queue:
        name = queue.pop()
        path = file_of(name)
        if path is None or is_own(name) or is_standard_library(path):
            continue
        owners = [] if is_example(name) else _owners(path)
        if owners:
            found.distributions.update(owners)
            continue
        found.local[name] = path
        parents = {name.rpartition(".")[0]} - {""}
        for other in sorted((_imports(path, name) | parents) - seen):
            seen.add(other)
            if other in sys.modules:
                queue.append(other)
            elif _could_be_module(other, found.local) and not find_source(other, search_path):
                found.absent.add(other)
    found.distributions |= _preloaded(found.distributions)
    return found


def _preloaded(distributions: Collection[str]) -> set[str]:
    """Return those of :data:`PRELOADED` that *distributions* require, directly or not.

    Where the server had imported one before, it is no new module when a package imports it; so it
    counts in any case, and a record is the same whatever the server had to import.
    """
    found: set[str] = set()
    queue, seen = sorted(distributions), {_normal(name) for name in distributions}
    while queue:
        for name in _required(queue.pop()):
            if name not in seen:
                seen.add(name)
                queue.append(name)
                if name in PRELOADED and _is_installed(name):
                    found.add(name)
    return found


@functools.cache
def _required(distribution: str) -> list[str]:
    """Return the normalized names of what *distribution* requires without any of its extras."""
    try:
        wanted = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    plain = [text for text in wanted if "extra ==" not in text]
    return sorted({_normal(name[0]) for text in plain if (name := _NAME.match(text))})


def _normal(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(distribution: str) -> bool:
    try:
        return record_path(distribution) is not None
    except importlib.metadata.PackageNotFoundError:
        return False


def _could_be_module(name: str, local: Collection[str]) -> bool:
    """Whether *name*, from an import statement, may name a module rather than an attribute."""
    parent = name.rpartition(".")[0]
    package = file_of(parent) if parent in local else None
    return not parent or (package is not None and package.name == "__init__.py")


def _origins(names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names):  # a package comes before its modules
        path, top = file_of(name), name.partition(".")[0]
        seen = any(other.partition(".")[0] == top for other in found)
        if path is None or seen or is_own(name) or is_example(name) or is_standard_library(path):
            continue
        if owners := _owners(path):
            found[name] = owners[0]
    return found


def file_of(name: str) -> Path | None:
    """Return the file of an imported module, or None when it has none."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).absolute() if isinstance(file, str) else None


def _owners(path: Path) -> list[str]:
    """Return the distributions whose RECORD lists the module's file."""
    folders = [folder for folder in path.parents if str(folder) in sys.path]
    found = {
        distribution
        for folder in folders
        for info in _installed(folder, _top(path.relative_to(folder)))
        if _records(distribution := _name(info), path)
    }
    return sorted(found)


def _top(path: Path) -> str:
    """Return how the lines of a RECORD begin that lists *path*, or something beside it."""
    return f"{path.parts[0]}/" if len(path.parts) > 1 else f"{path.parts[0]},"


@functools.cache
def _installed(folder: Path, top: str) -> list[Path]:
    """Return the distributions in *folder* whose RECORD has a line that begins with *top*.

    ``importlib.metadata.packages_distributions`` takes many times as long: a third of a second.
    """
    needle = f"\n{top}".encode()
    return [info for info, record in _listings(folder) if needle in record]


@functools.cache
def _listings(folder: Path) -> list[tuple[Path, bytes]]:
    return [(path.parent, b"\n" + path.read_bytes()) for path in folder.glob("*.dist-info/RECORD")]


@functools.cache
def _name(info: Path) -> str:
    return importlib.metadata.Distribution.at(info).metadata["Name"]


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
