"""The TensorRT backend: engines, built and run by the toolchain's own process.

This module is light; :mod:`planning` decides before anything runs, :mod:`building` and
:mod:`serving` work in a worker and call the toolchain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrator.backends.base import Backend, Built, Job, Json, Probe, Site, Target, Way
from orchestrator.backends.tensorrt import planning
from orchestrator.backends.tensorrt.probe import probe
from orchestrator.backends.tensorrt.toolchain import Toolchain
from orchestrator.config.schema import Config
from orchestrator.errors import PlanError

if TYPE_CHECKING:
    from orchestrator.backends.base import NamedArrays
    from orchestrator.numerics.batches import Batch
    from orchestrator.store.index import Index


class TensorRT(Backend):
    """TensorRT 8.6, 10 and 11, on the GPU that the toolchain reaches."""

    name = "tensorrt"
    versions: ClassVar[Mapping[str, int]] = {
        "build": 1, "refit": 1, "run": 1, "audit": 1, "benchmark": 1,
    }  # fmt: skip

    def way(self, config: Config, site: Site) -> Way:
        """Return the way to an engine for the toolchain's TensorRT and device; see ``planning``."""
        return planning.way(config, site)

    def tools(self, target: Target) -> tuple[str, ...]:  # noqa: ARG002  (its toolchain is in `expect`)
        """Return nothing: what decides the result is TensorRT's identity, a parameter."""
        return ()

    def forget(self, reach: Mapping[str, Any], index: Index) -> None:
        """Forget what the toolchain said of itself."""
        planning.forget(reach, index)

    def probe(self) -> Probe:
        """Return what this interpreter's TensorRT says of itself, or what to do."""
        try:
            seen = probe(Toolchain(), None).seen
        except PlanError as exc:
            return Probe(name=self.name, works=False, detail=exc.message, advice=exc.hint)
        device = seen["device"]
        return Probe(
            name=self.name,
            works=True,
            detail=f"TensorRT {seen['tensorrt']}, CUDA {seen['cuda_runtime']}, {device['name']} "
            f"(compute capability {device['compute_capability']})",
        )

    def build(self, model: Path, into: Path, target: Target, job: Job, more: Built) -> Json:
        """Write ``engine.plan`` and its manifest; see ``building``."""
        from orchestrator.backends.tensorrt.building import build, refit

        if more.base is not None:
            return refit(model, more.base, into, target, job, more)
        return build(model, into, target, job, more)

    def run(
        self, model: Path, samples: Path, wanted: Sequence[str], target: Target, job: Job
    ) -> Iterator[tuple[Batch, NamedArrays]]:
        """Run every batch in one process of the toolchain; see ``serving``."""
        from orchestrator.backends.tensorrt.serving import run

        return run(model, samples, wanted, target, job)

    def audit(
        self, model: Path, onnx: Path | None, samples: Path, claim: Json, target: Target, job: Job
    ) -> Json:
        """Read the engine through its inspector, with times of its layers; see ``serving``."""
        from orchestrator.backends.tensorrt.serving import audit

        return audit(model, onnx, samples, claim, target, job)

    def benchmark(
        self, model: Path, samples: Path, settings: Json, target: Target, job: Job
    ) -> Json:
        """Measure with and without transfers and CUDA graph; see ``serving``."""
        from orchestrator.backends.tensorrt.serving import benchmark

        return benchmark(model, samples, settings, target, job)


BACKEND: Final = TensorRT()
