"""refit: an engine of the same graph takes the model's weights, instead of being built.

The weights of ``onnx`` are put into the engine ``base``; where that is not possible, the engine is
built. Values are those of ``build``, and ``refitted``: true, or false with ``reason``.
"""

from __future__ import annotations

from typing import Final

from orchestrator.backends.base import scope_of, tools_of
from orchestrator.stages.base import Memory, Repeats, Stage, Use
from orchestrator.stages.build import run

STAGE: Final = Stage(
    name="refit",
    version=1,
    repeats=Repeats.VERDICT,
    inputs=("base", "onnx", "provenance?"),
    outputs=("session",),
    tools=tools_of,
    scope=scope_of,
    device=Use.ALONE,
    memory=Memory(base_mib=1024, per_input=4.0),
    seconds=5.0,
    run=run,
)
