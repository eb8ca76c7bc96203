"""Where the files named in configurations are. Nothing is imported to find out."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from orchestrator.errors import ConfigError
from orchestrator.plan.sources import find_spec

PACKAGE_PREFIX: Final = "pkg://"
_HINT: Final = "write pkg://package.module/relative/file"


def resolve(path_text: str, base: Path) -> Path:
    """Return the absolute path that *path_text* names. Whether it exists is the caller's question.

    Args:
        path_text: ``pkg://package.module/relative/file`` (a file in the folder of a package that
            lies in *base* or is importable), a path starting with ``~``, an absolute path, or a
            path relative to *base*.
        base: The folder that relative paths start from.

    Raises:
        ConfigError: when a ``pkg://`` path is malformed, or its package does not exist (no path
            could be named then), or ``~user`` has no home.
    """
    if path_text.startswith(PACKAGE_PREFIX):
        return _in_package(path_text, base)
    return Path.cwd() / base / home_expanded(path_text)


def home_expanded(path_text: str, *, where: str = "") -> Path:
    """Return the path that *path_text* names, a leading ``~`` replaced by the home directory.

    Raises:
        ConfigError: nobody knows that home directory.
    """
    try:
        return Path(path_text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(
            f"'{path_text}': {exc}", where=where, hint="write the home directory's path out"
        ) from exc


def bundled(name: Literal["conf", "plugins"]) -> Path:
    """Return the directory *name* that travels with this package.

    In an installed wheel it is ``orchestrator/_bundled/NAME``; in a checkout it lies beside the
    ``orchestrator`` package. The wheel's place is asked first, because beside an installed package
    lie other people's.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_bundled" / name
    return installed if installed.is_dir() else package.parent / name


def shown(path: Path) -> str:
    """Return *path* relative to the current directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _in_package(path_text: str, base: Path) -> Path:
    package, _, relative = path_text.removeprefix(PACKAGE_PREFIX).partition("/")
    parts = PurePosixPath(relative).parts
    if not all(part.isidentifier() for part in package.split(".")):
        raise ConfigError(f"'{path_text}' names no package", hint=_HINT)
    if ".." in parts or PurePosixPath(relative).is_absolute():
        raise ConfigError(f"'{path_text}' leaves the package", hint=_HINT)
    folders = _package_folders(package, base)
    if folders is None:
        raise ConfigError(
            f"the package '{package}' of '{path_text}' is not installed here",
            hint="install it, or run from the folder it is in",
        )
    # A namespace package has several folders: the first that has the file, else the first.
    found = [place.joinpath(*parts) for place in folders]
    return next((path for path in found if path.exists()), found[0])


def _package_folders(package: str, base: Path) -> list[Path] | None:
    """Return the folders of *package* without running its ``__init__`` or its parents'."""
    spec = find_spec(package, [str(Path.cwd() / base), *sys.path])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return [Path(place).absolute() for place in spec.submodule_search_locations]
    if spec.has_location and spec.origin:
        return [Path(spec.origin).absolute().parent]
    return None
