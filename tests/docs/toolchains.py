"""What the pages about TensorRT find installed, where there is neither TensorRT nor a GPU.

The stand-in (:mod:`tests.backends.tensorrt.standin`) takes TensorRT's place in this interpreter and
in the environments that the pages name; ``docker`` and ``ssh`` run here what they are given. What
the pages themselves say is not changed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.backends.tensorrt import standin

#: Pages whose commands meet the stand-in; each of them says so.
PAGES: Final = ("README", "tensorrt", "toolchains", "engines")
_HERE: Final = "11.4.0"
_ENVIRONMENTS: Final = {"envs/trt86": "8.6.1", "envs/trt10": "10.7.0"}
_FAR: Final = standin.HERE.parent / "data"


def install_programs(directory: Path) -> None:
    """Put ``docker``, ``ssh`` and the ``python3`` that they lead to into a directory."""
    for name in ("docker", "ssh"):
        shutil.copy(_FAR / name, directory / name)
    _script(directory / "python3", f'exec {sys.executable} "$@"')


def install_environments(directory: Path) -> dict[str, str]:
    """Put the environments that pages name into a page's *directory*.

    Returns:
        Variables for the page's commands, with which this interpreter has TensorRT too.
    """
    for name, version in _ENVIRONMENTS.items():
        python = directory / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        _script(python, f'STANDIN_VERSION={version} exec {sys.executable} "$@"')
    path = os.pathsep.join([str(standin.HERE / "site"), str(standin.REPOSITORY)])
    return {"PYTHONPATH": path, "STANDIN_VERSION": _HERE}


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
