"""What an artifact for a GPU is measured beside: PyTorch eager, and ONNX Runtime on CUDA.

This module is light: the planner asks :func:`available`. ``launch`` starts a process of its own for
each measurement, since a process forked from one that imported CUDA libraries must not use a GPU;
``child`` is what runs there, and the modules that it opens import the runtimes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from orchestrator.backends.onnxruntime.installed import find_onnxruntime
from orchestrator.errors import PlanError
from orchestrator.plan.sources import find_spec

#: Name of an engine → what people call it.
ENGINES: Final = {"torch": "PyTorch eager", "onnxruntime": "ONNX Runtime"}


def available(engine: str) -> bool:
    """Return whether *engine* is installed here in a build for CUDA; it is not imported.

    Whether it finds a GPU to work on, only the measurement tells.

    Raises:
        ValueError: there is no such engine.
    """
    match engine:
        case "torch":
            spec = find_spec("torch", sys.path)
            origin = spec.origin if spec is not None else None
            return origin is not None and (Path(origin).parent / "lib/libtorch_cuda.so").exists()
        case "onnxruntime":
            try:
                return find_onnxruntime().distribution == "onnxruntime-gpu"
            except PlanError:  # none, or two that overwrite each other
                return False
        case _:
            raise ValueError(f"there is no engine '{engine}' to measure beside")
