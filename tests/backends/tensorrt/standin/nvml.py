"""A stand-in for NVML: a library, since the worker opens the driver's own by its name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backends.tensorrt.standin import HERE, command


def with_nvml(folder: Path, processes: str) -> list[str]:
    """Return the words of ``toolchain.command`` for a stand-in whose NVML lists *processes*.

    It skips where there is no compiler.

    Args:
        folder: Where the library is made.
        processes: What ``nvml.c`` reads in STANDIN_PROCESSES.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a stand-in for NVML with")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", HERE / "nvml.c", "-o", library], check=True)
    env, *words = command(processes=processes)
    return [env, f"LD_LIBRARY_PATH={folder}", *words]
