"""Names for files that stay true when a project or an environment moves.

A record of what user code read must be checkable elsewhere, and two files of equal contents must
stay two. So a file is named from the nearest thing that moves with it: the declared file it lies
beside (``@onnx/weights.bin``), the base directory, the environment (``@site/package/file``), and
only failing these by its absolute path.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SITE: Final = "@site"


class Places:
    """Translates between paths and names, for one action."""

    def __init__(self, base: Path, declared: Mapping[str, Path]) -> None:
        """Take the base directory, and the files that the action declares by input name."""
        self._base = base
        self._roots = {
            f"@{name}": path if path.is_dir() else path.parent
            for name, path in sorted(declared.items())
        }
        self._roots[_SITE] = Path(sysconfig.get_path("purelib"))

    def name(self, path: Path) -> str:
        """Return the name of an absolute path."""
        for root, folder in self._roots.items():
            if root != _SITE and path.is_relative_to(folder):
                return f"{root}/{path.relative_to(folder)}"
        if path.is_relative_to(self._base):
            return str(path.relative_to(self._base))
        site = self._roots[_SITE]
        return f"{_SITE}/{path.relative_to(site)}" if path.is_relative_to(site) else str(path)

    def path(self, name: str) -> Path:
        """Return the path that *name* stands for here."""
        root, _, rest = name.partition("/")
        return self._roots[root] / rest if root in self._roots else self._base / name
