"""Which modules the warm server imports for an action: those its stage uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orchestrator.plan.graph import Action
from orchestrator.stages.catalogue import stage as find_stage

# Importing these on one thread starts no parallel region. The exporter's own registry is imported
# too: it takes seconds in every fork that has to do it again.
_MODULES: Final = {
    "numpy": ("numpy", "numpy.random"),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime",),
    "onnxsim": ("onnxsim",),
    "onnxscript": (
        "onnxscript",
        "onnxscript.function_libs.torch_lib.ops",
        "torch.onnx._internal.exporter._core",
        "torch.export._trace",
    ),
    "pillow": ("PIL.Image",),
    "safetensors": ("safetensors",),
    "torch": ("torch",),
}

#: What every fork runs; ``importlib.metadata`` imports the parser when it is first asked.
_WORKER: Final = ("orchestrator.executor.worker", "email.parser")
#: What stages import when they run; the others import little, or what no fork may inherit.
_INSIDE: Final = {
    "canonicalize": ("orchestrator.graphs.files", "orchestrator.graphs.canonical"),
    "cast": ("orchestrator.graphs.files", "orchestrator.numerics.half"),
    "export": ("orchestrator.graphs.files", "orchestrator.graphs.canonical"),
    "judge": ("orchestrator.numerics.metrics",),
    "reference": ("orchestrator.modules.loading", "orchestrator.numerics.batches"),
    "samples": ("orchestrator.data.take",),
    "score": ("orchestrator.numerics.tasks",),
    "simplify": ("orchestrator.graphs.files",),
}


def modules_for(actions: Iterable[Action]) -> list[str]:
    """Return the modules that *actions* need, in the order of first need."""
    found: dict[str, None] = dict.fromkeys(_WORKER)
    for action in actions:
        stage = find_stage(action.stage)
        for tool in stage.tools_for(action.params):
            found.update(dict.fromkeys(_MODULES.get(tool, ())))
        found[stage.run.__module__] = None
        found.update(dict.fromkeys(_INSIDE.get(stage.name, ())))
    return list(found)
