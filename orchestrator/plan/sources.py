"""Where modules come from, without importing them: local files or distributions."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

# The tool's own modules are covered by stage versions; its examples are a user's code like any
# other.
OWN_PACKAGE = "orchestrator"
OWN_EXAMPLES = "orchestrator.examples"


def find_source(module: str, search_path: Sequence[str]) -> Path | None:
    """Return the file that ``import module`` would load, or None for what has no file."""
    spec = find_spec(module, search_path)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    return Path(spec.origin)


def find_spec(module: str, search_path: Sequence[str]) -> ModuleSpec | None:
    """Return where *module* would come from when *search_path* is ``sys.path``, or None.

    Parents are located, not executed; a module that shadows another one is therefore noticed.
    """
    top, *parts = module.split(".")
    spec = _find_top(top, list(search_path))
    for part in parts:
        if spec is None:
            return None
        # The last component alone: with a dotted name, a namespace package would want its parent.
        folders = list(spec.submodule_search_locations or [])
        spec = importlib.machinery.PathFinder.find_spec(part, folders)
    return spec


def _find_top(name: str, search_path: list[str]) -> ModuleSpec | None:
    """Ask all finders in their order: editable installs may bring one of their own."""
    for finder in sys.meta_path:
        path = search_path if finder is importlib.machinery.PathFinder else None
        if (spec := finder.find_spec(name, path)) is not None:
            return spec
    return None


def is_own(module: str) -> bool:
    """Whether *module* is the tool's own code rather than a model's."""
    return _within(module, OWN_PACKAGE) and not is_example(module)


def is_example(module: str) -> bool:
    """Whether *module* belongs to the examples that travel with the tool."""
    return _within(module, OWN_EXAMPLES)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_standard_library(path: Path) -> bool:
    """Whether a file belongs to Python itself (its version stands for it)."""
    text = str(path)
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return False
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return any(text.startswith(f"{root}/") for root in roots)


def record_path(distribution: str) -> Path | None:
    """Return the RECORD file of an installed distribution, or None when it has none.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    found = importlib.metadata.distribution(distribution)
    # Asking `files` for it would parse all of RECORD: a third of a second for torch.
    folder = getattr(found, "_path", None)
    record = Path(str(folder)) / "RECORD"
    return record if folder is not None and record.is_file() else None
