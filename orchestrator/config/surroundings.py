"""What a composition depends on besides its own files: code, installed packages, plugins.

Standard library only: it is asked before Hydra is imported, to find out whether it has to be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from orchestrator.locations import bundled
from orchestrator.store import digests
from orchestrator.store.index import files_below

# Their versions are in the names of their folders; a repaired or patched one has another RECORD.
_COMPOSING: Final = ("hydra_core", "omegaconf", "pydantic", "pydantic_core", "pyyaml", "antlr4_")
_INSTALLED: Final = (".dist-info", ".egg-info", ".egg-link", ".pth")
_NAMESPACE: Final = "hydra_plugins"
_PACKAGE: Final = Path(__file__).resolve().parent.parent
# What turns a composition into what is remembered, besides this folder.
_CODE: Final = ("errors.py", "locations.py", "plan/secrets.py", "report/directories.py")


def surroundings(path: Sequence[str], further: Iterable[str] = ()) -> str:
    """Return a digest of all that decides how this process composes, whatever it composes.

    Our own schema and code, what is installed on the module search *path* and the RECORDs of the
    libraries that compose, all files of Hydra plugins, Python's version and ``-W``, and
    variables that Hydra itself reads.

    Args:
        path: Absolute folders, as in ``sys.path``.
        further: Further folders of the ``hydra_plugins`` namespace.
    """
    return digests.of_json(
        "surroundings",
        {
            "python": sys.version,
            "warnings": sys.warnoptions,  # a warning that is shown is no part of what is remembered
            "code": _own_code(),
            "installed": {folder: _installed(folder) for folder in path},
            "plugins": _plugins([*(f"{folder}/{_NAMESPACE}" for folder in path), *further]),
            "variables": {
                name: digests.of_bytes(os.fsencode(value))
                for name, value in os.environ.items()
                if name.startswith("HYDRA_") or name == "SELF_WARNING_AS_ERROR"
            },
        },
    )


def module_path() -> tuple[str, ...]:
    """Return the absolute entries of ``sys.path``, the bundled plugins' folder left out."""
    own = str(bundled("plugins"))
    return tuple(str(Path.cwd() / entry) for entry in sys.path if entry != own)


def _own_code() -> list[str]:
    own = [*sorted((_PACKAGE / "config").glob("*.py")), *(_PACKAGE / name for name in _CODE)]
    return [digests.of_file(file) for file in own] + _digests(bundled("plugins"))


def _installed(folder: str) -> list[str]:
    """Return what is installed in *folder*: names with versions, RECORDs of what composes."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(_INSTALLED))  # noqa: PTH208
    except NotADirectoryError:
        return [_stat(Path(folder))]  # a zip file
    except OSError:
        return []
    found = []
    for name in names:
        found.append(name)
        if name.endswith(".pth") or name.lower().startswith(_COMPOSING):
            place = Path(folder, name)
            record = place if name.endswith(".pth") else place / "RECORD"
            found.append(digests.of_file(record) if record.is_file() else _stat(place))
    return found


def _plugins(folders: Iterable[str]) -> dict[str, list[str]]:
    return {folder: _digests(Path(folder)) for folder in folders if Path(folder).is_dir()}


def _digests(root: Path) -> list[str]:
    files = [file for file in files_below(root) if file.suffix != ".pyc"]
    return [f"{file.relative_to(root)} {digests.of_file(file)}" for file in files]


def _stat(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"
