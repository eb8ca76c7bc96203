"""The ONNX Runtime backend (CPU): an optimized session file, run by ``InferenceSession``.

This module is light; ``session``, ``build`` and ``audit`` beside it import the runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.backends.base import Backend, Job, Json, Observed, Probe, Runner, Target
from orchestrator.backends.onnxruntime.installed import cpu_target, find_onnxruntime
from orchestrator.errors import PlanError

if TYPE_CHECKING:
    from orchestrator.backends.base import Arrays


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU. A tree is loaded at ``target.optimization_level``, always."""

    name = "onnxruntime"

    def tools(self, target: Target) -> tuple[str, ...]:  # noqa: ARG002  (one for all targets)
        """Return ``onnxruntime``, which stands for whichever distribution is installed."""
        return ("onnxruntime",)

    def identity(self, target: Target) -> Json:  # noqa: ARG002  (the CPU is the only device)
        """Return the CPU's model and instruction sets, which decide what a session file holds."""
        find_onnxruntime()
        return cpu_target()

    def probe(self) -> Probe:
        """Return the installed distribution and the CPU, or what to install."""
        try:
            found = find_onnxruntime()
        except PlanError as exc:
            return Probe(name=self.name, works=False, detail=exc.message, advice=exc.hint)
        cpu = cpu_target()
        flags = " ".join(cpu["flags"]) or "no known instruction sets"
        return Probe(
            name=self.name,
            works=True,
            detail=f"{found.distribution} {found.version} on {cpu['model']} ({flags})",
        )

    def build(self, model: Path, into: Path, target: Target, job: Job) -> Json:
        """Write the graph as ONNX Runtime optimizes it for this CPU; see ``build``."""
        from orchestrator.backends.onnxruntime.build import build

        return build(model, into, target, job)

    def open(self, model: Path, target: Target, job: Job) -> Runner:
        """Load a tree on the CPU with ``job.threads`` intra-op threads; see ``session``."""
        from orchestrator.backends.onnxruntime.session import open_session

        return open_session(model, target, job)

    def observe(self, model: Path, target: Target, feeds: Arrays, job: Job) -> Observed:
        """Profile one run and read the stored weights; see ``audit``."""
        from orchestrator.backends.onnxruntime.audit import observe

        return observe(model, target, feeds, job)


BACKEND: Final = OnnxRuntime()
