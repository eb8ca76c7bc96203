"""Examines the installation: packages, backends and targets, the store, the processor."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.backends.base import BACKENDS, backend
from orchestrator.errors import OrchestrateError
from orchestrator.executor.machine import cores
from orchestrator.report.table import size_text
from orchestrator.store.store import Store, default_directory

_NEEDED: Final = (
    "hydra-core",
    "omegaconf",
    "torch",
    "onnx",
    "onnxscript",
    "onnxsim",
    "numpy",
    "rich",
    "diskcache",
    "pydantic",
    "safetensors",
)
_IMPORTED: Final = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime")
_IMPORT_TIMEOUT_S: Final = 120
#: Backends that not every machine has.
_OPTIONAL: Final = ("tensorrt",)
_FREE_BYTES: Final = 5 * 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; *advice* says what to do when it is not ``ok``."""

    name: str
    state: Literal["ok", "optional", "missing"]
    text: str
    advice: str = ""


def examine() -> list[Finding]:
    """Return all findings; heavy packages are tried in a process of their own."""
    return [*_python(), *_packages(), *_imports(), *_backends(), *_store()]


def _python() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(name="python", state="ok", text=f"{version}, {cores()} cores, {sys.executable}")


def _packages() -> Iterator[Finding]:
    for name in _NEEDED:
        try:
            yield Finding(name=name, state="ok", text=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                name=name, state="missing", text="not installed", advice=f"pip install '{name}'"
            )


def _imports() -> Iterator[Finding]:
    """Import the heavy packages as a worker would: an installed one may still not load."""
    works = []
    for module in _IMPORTED:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            works.append(module)
        else:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            yield Finding(
                name=f"import {module}",
                state="missing",
                text=last[0],
                advice="reinstall it; a missing shared library is named above",
            )
    yield Finding(name="imports", state="ok", text=", ".join(works) or "none")


def _backends() -> Iterator[Finding]:
    for name in BACKENDS:
        probe = backend(name).probe()
        yield Finding(
            name=f"backend {name}",
            state="ok" if probe.works else "optional" if name in _OPTIONAL else "missing",
            text=probe.detail,
            advice=probe.advice,
        )


def _store() -> Iterator[Finding]:
    try:
        directory = default_directory()
        store = Store(directory)
        with tempfile.TemporaryFile(dir=store.root / "tmp") as file:
            file.write(b"x")
        store.end()
    except OrchestrateError as exc:
        yield Finding(name="store", state="missing", text=exc.message, advice=exc.hint)
        return
    free = shutil.disk_usage(Path(directory)).free
    yield Finding(
        name="store",
        state="ok" if free > _FREE_BYTES else "optional",
        text=f"{directory}, {size_text(free)} free",
        advice="" if free > _FREE_BYTES else "'orchestrate cache gc --max-size 5GiB' frees space",
    )
