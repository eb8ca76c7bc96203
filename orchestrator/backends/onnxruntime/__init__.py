"""The ONNX Runtime backend (CPU): an optimized session file, run by ``InferenceSession``.

This module is light; the modules beside it import the runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from orchestrator.backends.base import (
    Backend,
    Built,
    Form,
    Job,
    Json,
    Observed,
    Probe,
    Runner,
    Site,
    Target,
    Way,
)
from orchestrator.backends.onnxruntime.installed import cpu_target, find_onnxruntime
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from orchestrator.backends.base import Arrays, NamedArrays
    from orchestrator.numerics.batches import Batch

_FORMS: Final[Mapping[str, Form]] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8 qdq"}


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU. A tree is loaded at ``target.optimization_level``, always."""

    name = "onnxruntime"
    versions: ClassVar[Mapping[str, int]] = {"build": 1, "run": 1, "audit": 1, "benchmark": 1}
    on_processor = True

    def way(self, config: Config, site: Site) -> Way:  # noqa: ARG002  (nothing to look up)
        """Return the way to a session file: the model in its precision, and nothing else.

        Raises:
            ConfigError: the precision, the calibration or the profiles are TensorRT's.
        """
        _refuse_tensorrts(config)
        target = config.target.model_dump(mode="json")
        form = _FORMS[config.precision.name]
        return Way(form=form, build=target, run=target, artifact="session")

    def tools(self, target: Target) -> tuple[str, ...]:  # noqa: ARG002  (one for all targets)
        """Return ``onnxruntime``, which stands for whichever distribution is installed."""
        return ("onnxruntime",)

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

    def build(self, model: Path, into: Path, target: Target, job: Job, more: Built) -> Json:  # noqa: ARG002
        """Write the graph as ONNX Runtime optimizes it for this CPU; see ``build``."""
        from orchestrator.backends.onnxruntime.build import build

        return build(model, into, target, job)

    def run(
        self, model: Path, samples: Path, wanted: Sequence[str], target: Target, job: Job
    ) -> Iterator[tuple[Batch, NamedArrays]]:
        """Run every batch in one session; see ``serving``."""
        from orchestrator.backends.onnxruntime.serving import run

        return run(model, samples, wanted, target, job)

    def audit(
        self,
        model: Path,
        onnx: Path | None,  # noqa: ARG002  (the session file says it all)
        samples: Path,
        claim: Json,
        target: Target,
        job: Job,
    ) -> Json:
        """Profile one run and read the stored weights; see ``audit``."""
        from orchestrator.numerics.batches import measured_batch, read_batch
        from orchestrator.numerics.precision import audit_values

        feeds = read_batch(samples, measured_batch(samples))
        return audit_values(self.observe(model, target, feeds, job), claim)

    def benchmark(
        self, model: Path, samples: Path, settings: Json, target: Target, job: Job
    ) -> Json:
        """Time plain calls with NumPy arrays; see ``serving``."""
        from orchestrator.backends.onnxruntime.serving import benchmark

        return benchmark(model, samples, settings, target, job)

    def open(self, model: Path, target: Target, job: Job) -> Runner:
        """Load a tree on the CPU with ``job.threads`` intra-op threads; see ``session``.

        Raises:
            StageError: ONNX Runtime refuses it.
        """
        from orchestrator.backends.onnxruntime.session import open_session

        return open_session(model, target, job)

    def observe(self, model: Path, target: Target, feeds: Arrays, job: Job) -> Observed:
        """Run *model* once on *feeds* under the profiler, and read what it stores; see ``audit``.

        Raises:
            StageError: ONNX Runtime refuses the model or the feeds.
        """
        from orchestrator.backends.onnxruntime.audit import observe

        return observe(model, target, feeds, job)


def _refuse_tensorrts(config: Config) -> None:
    name = config.precision.name
    if name not in _FORMS:
        raise ConfigError(
            f"precision={name} is for TensorRT; ONNX Runtime on the CPU has {', '.join(_FORMS)}",
            where="precision",
            hint="add target=tensorrt, or use another precision",
        )
    if name == "int8" and config.calibration.method.startswith("tensorrt_"):
        raise ConfigError(
            f"calibration={config.calibration.method} is TensorRT's own calibrator",
            where="calibration",
            hint="add target=tensorrt, or use calibration=minmax, entropy or percentile",
        )
    if config.profile.further:
        raise ConfigError(
            "ONNX Runtime has no optimization profiles: a session takes every shape",
            where="profile.further",
            hint="leave it out, or add target=tensorrt",
        )
    if config.toolchain.command is not None:
        raise ConfigError(
            "target.backend=onnxruntime runs in this interpreter",
            where="toolchain.command",
            hint="leave it null",
        )


BACKEND: Final = OnnxRuntime()
