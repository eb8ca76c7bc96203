"""Which ONNX Runtime is installed, and which CPU it would run on; without importing it.

``onnxruntime`` and ``onnxruntime-gpu`` install into one folder: whichever came second overwrites
the other, and removing one breaks both. So exactly one may be there.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import PlanError

DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")
# Instruction sets that ONNX Runtime's kernels (MLAS) choose between, as Linux names them.
_FLAGS: Final = re.compile(
    r"avx|avx2|fma|f16c|avx_vnni|avx_ne_convert|avx512\w*|avx10\w*|amx\w*"
    r"|neon|asimd\w*|fphp|sve\w*|sme(?!p)\w*|i8mm|bf16"
)


@dataclass(frozen=True)
class Installed:
    """An installed distribution: its name on the package index and its version."""

    distribution: str
    version: str


def find_onnxruntime() -> Installed:
    """Return the one installed ONNX Runtime.

    Raises:
        PlanError: when none, or more than one, is installed.
    """
    found = [Installed(name, version) for name in DISTRIBUTIONS if (version := _version(name))]
    if not found:
        raise PlanError(
            "no ONNX Runtime is installed",
            hint="pip install 'orchestrate[cpu]'",
        )
    if len(found) > 1:
        first, second = found
        raise PlanError(
            f"{first.distribution} {first.version} and {second.distribution} {second.version} are "
            "both installed, but they install into one folder and overwrite each other",
            hint=f"pip uninstall {first.distribution} {second.distribution}, then install one: "
            "onnxruntime for the CPU, onnxruntime-gpu for CUDA",
        )
    return found[0]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cpu_target(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return what of the CPU decides which kernels run: part of the keys of session files.

    Returns:
        ``machine`` (``x86_64``, ``aarch64``), ``model`` (the CPU's name; on Arm its implementer and
        part numbers), ``flags`` (sorted instruction sets that matter to ONNX Runtime). Core counts
        are no part of it. Without */proc/cpuinfo* (not Linux) ``flags`` is empty.
    """
    return dict(_read_cpu(cpuinfo))


@lru_cache(maxsize=4)
def _read_cpu(cpuinfo: Path) -> tuple[tuple[str, Any], ...]:
    fields: dict[str, str] = {}
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    words = (fields.get("flags") or fields.get("features") or "").split()
    arm = [fields[name] for name in ("cpu implementer", "cpu part") if name in fields]
    model = fields.get("model name") or " ".join(arm) or platform.processor() or "unknown CPU"
    flags = sorted({word for word in words if _FLAGS.fullmatch(word)})
    return (("machine", platform.machine()), ("model", model), ("flags", flags))
