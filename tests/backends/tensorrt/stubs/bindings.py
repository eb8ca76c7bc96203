"""Real Python packages of NVIDIA over stub libraries, each imported in a child process."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.tensorrt import worker

HERE = Path(__file__).parent
WORKER = Path(worker.__file__)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


@dataclass(frozen=True)
class Bindings:
    """An importable ``tensorrt``: where its package and its stub libraries are."""

    version: str
    path: Path
    libraries: Path

    def environment(self, *more: Path) -> dict[str, str]:
        paths = [str(self.path), *(str(folder) for folder in more)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "LD_LIBRARY_PATH": str(self.libraries),
        }

    def report(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return what ``report.py`` answers about these bindings."""
        done = subprocess.run(
            [sys.executable, HERE / "report.py", WORKER],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )
        assert done.returncode == 0, done.stderr[-4000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def tensorrt(cache_folder: Path, requirement: str) -> Bindings:
    """Return the bindings of *requirement*, e.g. ``tensorrt_cu12_bindings==10.0.1``."""
    version = requirement.partition("==")[2]
    path = package(cache_folder, requirement)
    front = path / "tensorrt"
    front.mkdir(exist_ok=True)
    # NVIDIA's own front end, a source distribution, does no more than this on Linux.
    (front / "__init__.py").write_text(
        "import sys\n\nimport tensorrt_bindings\n\nsys.modules[__name__] = tensorrt_bindings\n"
    )
    return Bindings(version, path, stub_libraries(cache_folder, int(version.split(".")[0])))


def package(cache_folder: Path, requirement: str) -> Path:
    """Return the folder with the unpacked wheel of *requirement*; skips where it cannot be had."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = cache_folder / f"{requirement}-{tag}"
    if not folder.exists():
        download = cache_folder / f"{requirement}-{tag}.{os.getpid()}.download"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        pip += [
            "--disable-pip-version-check",
            "--retries",
            "1",
            "--timeout",
            "20",
            "-d",
            str(download),
        ]
        done = subprocess.run([*pip, requirement], capture_output=True, text=True, check=False)
        wheels = list(download.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            shutil.rmtree(download, ignore_errors=True)
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
            reason = (errors or done.stderr.splitlines() or ["pip gave no reason"])[-1]
            pytest.skip(f"{requirement} cannot be downloaded for {tag}: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(download / "package")
        (download / "package").rename(folder)
        shutil.rmtree(download)
    return folder


def stub_libraries(cache_folder: Path, major: int) -> Path:
    """Return a folder with TensorRT's libraries of *major*, as stubs; skips without a compiler."""
    command = compiler()
    if command is None:
        pytest.skip("no C compiler: install gcc, or the package ziglang")
    folder = cache_folder / f"libraries-{major}"
    folder.mkdir(exist_ok=True)
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        subprocess.run(
            [*command, "-shared", "-fPIC", f"-Wl,-soname,{soname}"]  # noqa: RUF005  (in two lines)
            + ["-o", str(folder / soname), str(HERE / "libraries.c")],
            check=True,
        )
    return folder


@cache
def compiler() -> tuple[str, ...] | None:
    """Return a C compiler's command: the system's, else ziglang's, None where there is none."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found:
        return (found,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    return None
