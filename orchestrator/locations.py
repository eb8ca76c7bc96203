"""Where the files named in configurations are. Nothing is imported to find out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from orchestrator.errors import ConfigError

PACKAGE_PREFIX: Final = "pkg://"
_HINT: Final = "write pkg://package.module/relative/file"


def resolve(path_text: str, base: Path) -> Path:
    """Return the absolute path that *path_text* names. Whether it exists is the caller's question.

    Args:
        path_text: ``pkg://package.module/relative/file`` (a file in the folder of an importable
            package), a path starting with ``~``, an absolute path, or a path relative to *base*.
        base: The folder that relative paths start from.

    Raises:
        ConfigError: when a ``pkg://`` path is malformed, or its package does not exist (no path
            could be named then), or ``~user`` has no home.
    """
    if path_text.startswith(PACKAGE_PREFIX):
        return _in_package(path_text)
    try:
        path = Path(path_text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(
            f"'{path_text}': {exc}", hint="write the home directory's path out"
        ) from exc
    return Path.cwd() / base / path


def bundled(name: Literal["conf", "plugins"]) -> Path:
    """Return the directory *name* that travels with this package.

    In an installed wheel it is ``orchestrator/_bundled/NAME``; in a checkout it lies beside the
    ``orchestrator`` package. The wheel's place is asked first, because beside an installed package
    lie other people's.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_bundled" / name
    return installed if installed.is_dir() else package.parent / name


def _in_package(path_text: str) -> Path:
    package, _, relative = path_text.removeprefix(PACKAGE_PREFIX).partition("/")
    parts = PurePosixPath(relative).parts
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"'{path_text}' names no package", hint=_HINT)
    if ".." in parts or PurePosixPath(relative).is_absolute():
        raise ConfigError(f"'{path_text}' leaves the package", hint=_HINT)
    folder = _package_folder(package)
    if folder is None:
        raise ConfigError(
            f"the package '{package}' of '{path_text}' is not installed here",
            hint="install it, or run from the folder it is in",
        )
    # A namespace package has several folders: the first that has the file, else the first.
    found = [place.joinpath(*parts) for place in folder]
    return next((path for path in found if path.exists()), found[0])


def _package_folder(package: str) -> list[Path] | None:
    """Return the folders of *package* without running its ``__init__`` or its parents'."""
    search: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    for part in package.split("."):
        # Path finders look for the last component of a dotted name only, so *part* alone will do;
        # with the full name a nested namespace package would want its parent imported.
        spec = _find(part, search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or ())
    if search:
        return [Path(place).absolute() for place in search]
    return (
        [Path(spec.origin).absolute().parent]
        if spec and spec.has_location and spec.origin
        else None
    )


def _find(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    # All finders, not PathFinder alone: editable installs may bring one of their own.
    for finder in sys.meta_path:
        spec = finder.find_spec(name, search)
        if spec is not None:
            return spec
    return None
