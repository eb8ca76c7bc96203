"""What a plan would be loaded with: a toolchain's identity, or what the driver alone tells.

Without a TensorRT the driver still tells the GPU and its compute capability, and the machine its
system: enough to say that a plan will *not* load, never that it will.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.tensorrt.compatibility import Reason
from orchestrator.backends.tensorrt.failures import ToolchainError
from orchestrator.backends.tensorrt.probe import probe
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.errors import PlanError
from orchestrator.store.index import Index

Json = dict[str, Any]

NVIDIA: Final = Path("/proc/driver/nvidia")
_VERSION: Final = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")
_QUERY: Final = "driver_version,compute_cap,name"  # the name last: it may hold a comma
_SMI_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Here:
    """What is known of the place that a plan would be loaded at.

    Attributes:
        identity: As a toolchain's worker reports it (``tensorrt``, ``platform``, ``device`` …), as
            far as it is known; from the driver also ``driver`` and ``gpus``, their names.
        toolchain: The name of the toolchain that was asked; empty where there was none.
        problem: Why it is not all; None when a toolchain answered.
    """

    identity: Json
    toolchain: str = ""
    problem: Reason | None = None

    @property
    def source(self) -> str:
        """Where it is from: ``toolchain NAME`` or ``the driver``."""
        return f"toolchain {self.toolchain}" if self.toolchain else "the driver"


def has_tensorrt() -> bool:
    """Return whether this interpreter finds a ``tensorrt``; it is not imported."""
    try:
        spec = importlib.util.find_spec("tensorrt")
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # a folder of that name is no package


def identify(
    toolchain: Toolchain | None, index: Index | None = None, *, nvidia: Path = NVIDIA
) -> Here:
    """Return what is here.

    Args:
        toolchain: Which one would load the plan; None: this interpreter if it has a TensorRT, and
            the driver alone otherwise.
        index: Where probes are remembered; None: the toolchain is asked.
        nvidia: Where the kernel's driver tells its version and GPUs.
    """
    if toolchain is None and not has_tensorrt():
        return Here(
            identity=driver_identity(nvidia),
            problem=Reason(
                "there is no TensorRT in this interpreter to hold the plan against",
                "--toolchain WORDS names a Python that has it, as toolchain.command does",
            ),
        )
    asked = toolchain or Toolchain()
    try:
        return Here(identity=probe(asked, index, nvidia=nvidia).seen, toolchain=asked.name)
    except PlanError as exc:
        seen = exc.__cause__.result.get("seen") if isinstance(exc.__cause__, ToolchainError) else {}
        problem = Reason(exc.message.partition("\n")[0], exc.hint)
    except OSError as exc:
        seen, problem = {}, Reason(f"toolchain {asked.name} cannot be asked: {exc}", "check TMPDIR")
    told = driver_identity(nvidia) if asked.here else {}
    return Here(identity={**told, **(seen or {})}, toolchain=asked.name, problem=problem)


def driver_identity(nvidia: Path = NVIDIA) -> Json:
    """Return what is known of this machine without a TensorRT.

    ``platform`` always; ``driver`` and ``gpus`` where a driver is loaded; ``device`` with ``name``
    and ``compute_capability`` where nvidia-smi tells it and all GPUs agree.
    """
    found: Json = {"platform": f"{sys.platform}-{platform.machine()}"}
    told = list(_smi())
    names = [name for _, _, name in told] or list(_names(nvidia))
    versions = [driver for driver, _, _ in told] or _VERSION.findall(_read(nvidia / "version"))
    if versions:
        found["driver"] = versions[0]
    if names:
        found["gpus"] = names
    device = {
        "name": _common(names),
        "compute_capability": _common([capability for _, capability, _ in told]),
    }
    if any(device.values()):
        found["device"] = {name: value for name, value in device.items() if value}
    return found


def _smi() -> Iterator[tuple[str, str, str]]:
    """Yield driver version, compute capability and name of each GPU; nothing without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    try:
        done = subprocess.run(
            [program, f"--query-gpu={_QUERY}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode != 0:
        return
    for line in done.stdout.splitlines():
        driver, _, rest = line.partition(",")
        capability, _, name = rest.partition(",")
        if re.fullmatch(r"\d+\.\d+", capability.strip()):
            yield driver.strip(), capability.strip(), name.strip()


def _names(nvidia: Path) -> Iterator[str]:
    """Yield the GPUs' names as the kernel's driver knows them."""
    for path in sorted(nvidia.glob("gpus/*/information")):
        for line in _read(path).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                yield value.strip()


def _common(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
