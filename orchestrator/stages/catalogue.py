"""Finds a stage by its name. Each stage is declared in the module of the same name."""

from __future__ import annotations

import functools
import importlib

from orchestrator.errors import UsageError, nearest
from orchestrator.stages.base import Stage

NAMES = (
    "samples",
    "export",
    "import_onnx",
    "simplify",
    "canonicalize",
    "reference",
    "cast",
    "quantize",
    "skeleton",
    "build",
    "refit",
    "run",
    "judge",
    "score",
    "audit",
    "benchmark",
    "beside",
)


@functools.cache
def stage(name: str) -> Stage:
    """Return the declaration of the stage called *name*.

    Raises:
        UsageError: there is no such stage.
    """
    if name not in NAMES:
        raise UsageError(
            f"there is no stage '{name}'",
            hint=nearest(name, NAMES) or f"stages: {', '.join(NAMES)}",
        )
    declared: Stage = importlib.import_module(f"orchestrator.stages.{name}").STAGE
    return declared
