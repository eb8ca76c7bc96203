"""Which modules the warm server imports for an action: those its stage uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orchestrator.plan.graph import Action
from orchestrator.stages.catalogue import stage as find_stage

# Importing these on one thread starts no parallel region. The exporter's own registry is imported
# too: it takes seconds in every fork that has to do it again.
_MODULES: Final = {
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime",),
    "onnxsim": ("onnxsim",),
    "onnxscript": ("onnxscript", "torch.onnx._internal.exporter._core", "torch.export"),
    "pillow": ("PIL.Image",),
    "safetensors": ("safetensors",),
    "torch": ("torch",),
}


def modules_for(actions: Iterable[Action]) -> list[str]:
    """Return the modules that *actions* need, in the order of first need."""
    found: dict[str, None] = {}
    for action in actions:
        for tool in find_stage(action.stage).tools_for(action.params):
            found.update(dict.fromkeys(_MODULES.get(tool, ())))
    return list(found)
