"""Versions of the distributions that stages use, from package metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import sys

from orchestrator.backends.onnxruntime.installed import find_onnxruntime
from orchestrator.errors import PlanError


def versions(tools: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each tool, by distribution name.

    The special name ``onnxruntime`` stands for whichever ONNX Runtime is installed; ``python`` for
    the interpreter's major and minor version.

    Raises:
        PlanError: a tool is not installed, or several ONNX Runtimes are.
    """
    return dict(_version(name) for name in sorted(tools))


def _version(name: str) -> tuple[str, str]:
    if name == "python":
        return name, f"{sys.version_info.major}.{sys.version_info.minor}"
    if name == "onnxruntime":
        found = find_onnxruntime()
        return found.distribution, found.version
    try:
        return name, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise PlanError(
            f"the package '{name}' is not installed",
            hint=f"pip install '{name}'; 'orchestrate doctor' lists what else is missing",
        ) from None
