"""Where modules come from, without importing them: local files or distributions."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# The tool's own modules are covered by stage versions; its examples are a user's code like any
# other.
OWN_PACKAGE = "orchestrator"
OWN_EXAMPLES = "orchestrator.examples"


def find_source(module: str, search_path: Sequence[str]) -> Path | None:
    """Return the file that ``import module`` would load, or None for what has no file.

    Parents are located, not executed; a module that shadows another one is therefore noticed.
    """
    path: Sequence[str] | None = list(search_path)
    spec = None
    for part in module.split("."):
        # The last component alone: with a dotted name, a namespace package would want its parent.
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    return Path(spec.origin)


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
