"""orchestrate: PyTorch models to verified ONNX files and runnable artifacts, declared in YAML.

The Python API is one function::

    import orchestrator

    results = orchestrator.build(["precision=fp16"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import build
    from orchestrator.report.experiment import VariantResult

__version__ = "0.1.0"
__all__ = ["VariantResult", "__version__", "build"]

_HOMES = {"build": "orchestrator.api", "VariantResult": "orchestrator.report.experiment"}


def __getattr__(name: str) -> Any:
    # Importing the package costs nothing until something of it is used: the command's --help and
    # the workers import it too.
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
