"""What a backend is: the few operations behind which ONNX becomes something runnable.

The planner asks a backend how a variant reaches its target (:meth:`Backend.way`) and must stay
light: a backend's package imports its runtime only inside methods. Workers call the rest. The
stages ``build``, ``run``, ``audit`` and ``benchmark`` know this interface and no runtime.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol

from orchestrator.errors import PlanError, StageError, nearest
from orchestrator.stages.base import Context, Scope

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

    from orchestrator.config.schema import Config
    from orchestrator.numerics.batches import Batch
    from orchestrator.plan.graph import File
    from orchestrator.plan.inputs import Files
    from orchestrator.store.index import Index

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    NamedArrays = dict[str, np.ndarray[Any, Any]]

Json = dict[str, Any]
Target = Mapping[str, Any]

#: Name of a backend (``target.backend``) to the module that holds its ``BACKEND``.
BACKENDS: Final[Mapping[str, str]] = {
    "onnxruntime": "orchestrator.backends.onnxruntime",
    "tensorrt": "orchestrator.backends.tensorrt.backend",
}

#: What the ONNX model handed to ``build`` must be.
Form = Literal["fp32", "fp16", "bf16", "int8 qdq", "fp8 qdq"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one variant reaches its target: what the planner needs to know of a backend.

    Attributes:
        form: What the ONNX model must be lowered to.
        build: ``params["target"]`` of the build action: all that decides the artifact.
        run: ``params["target"]`` of the actions that run the artifact.
        artifact: What people call the artifact: ``session`` or ``engine``.
        files: Files that build and run read (plugin libraries), by input name.
        calibrated: The build itself calibrates, and needs the calibration samples.
        reach: How the target is reached: in no key, handed to the worker.
        devices: UUIDs of the GPUs that serve it equally well; empty: it needs none. Whatever has a
            result of its own for each GPU, as a measurement has, takes the first.
        command: The equivalent command of the vendor's own tool; '' for none.
        refit: The build is keyed by the graph without its weights' values, and refitted.
        notes: What is done otherwise than asked, and why; one sentence each.
    """

    form: Form
    build: Json
    run: Json
    artifact: str
    files: Mapping[str, File] = field(default_factory=dict)
    calibrated: bool = False
    reach: Json = field(default_factory=dict)
    devices: Sequence[str] = ()
    command: str = ""
    refit: bool = False
    notes: Sequence[str] = ()

    @property
    def device(self) -> str:
        """The first of :attr:`devices`; '' for none."""
        return self.devices[0] if self.devices else ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a backend may use while it plans one batch.

    Attributes:
        files: Finds declared files.
        index: What is remembered between runs.
        found: What was found out for this batch, by whatever it is about: all variants see the
            same toolchain, and it is looked at once.
    """

    files: Files
    index: Index
    found: dict[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of a runnable model.

    Attributes:
        name: Its name.
        dtype: Its NumPy dtype name, e.g. ``float32``.
        shape: Its sizes; None where a size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return type and sizes as messages show them, e.g. ``float32[?, 3, 8, 8]``."""
        return f"{self.dtype}[{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One node as it was really executed.

    Attributes:
        name: The node (or engine layer).
        op: Its operator, without the runtime's fusion prefixes where it has an ONNX name.
        dtype: The type it computes in: ``float32``, ``float16``, ``int8``, …; ``unknown`` where the
            runtime does not say.
        flops: Floating-point or integer operations (a multiply-add is two); 0 for nodes that are
            neither convolution nor matrix product.
        time_us: Time in the node, in microseconds, of the one profiled run.
    """

    name: str
    op: str
    dtype: str
    flops: int
    time_us: float


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One stored weight tensor.

    Attributes:
        name: The tensor.
        dtype: The type it is stored in.
        nbytes: Its size in the file.
        consumers: Operators (ONNX names) that take it as their weight, seen through casts,
            (de)quantization and layout changes; empty for biases, scales, tables and constants.
        nodes: Names of those operators' nodes.
    """

    name: str
    dtype: str
    nbytes: int
    consumers: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a backend saw of an artifact: what it stores, and what it executed.

    Attributes:
        weights: Every stored weight.
        work: Every executed node.
        note: What a reader must know to understand a difference between the two; may be empty.
    """

    weights: Sequence[Weight]
    work: Sequence[Work]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What ``doctor`` shows of one backend: whether it works here, and what to do if not."""

    name: str
    works: bool
    detail: str
    advice: str = ""


def _quiet(done: float, text: str = "") -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an operation may use while it runs.

    Attributes:
        scratch: A directory for temporary files.
        log: Writes a line to the action's log.
        threads: CPU threads.
        progress: Takes how far it is (0..1), and at what.
        reach: :attr:`Way.reach`.
        files: :attr:`Way.files`, as paths.
        locks: Descriptors of locks that a process it starts must hold as well.
        shared: A directory that outlives the action, for what makes later ones faster.
    """

    scratch: Path
    log: Callable[[str], None]
    threads: int = 1
    progress: Callable[[float, str], None] = _quiet
    reach: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    locks: Sequence[int] = ()
    shared: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Built:
    """What :meth:`Backend.build` is given besides the model.

    Attributes:
        samples: Calibration batches, where the build itself calibrates.
        provenance: Which PyTorch module each ONNX node came from, where known.
        base: An artifact of the same graph with other weights, to be refitted; or None.
    """

    samples: Path | None = None
    provenance: Path | None = None
    base: Path | None = None


class Runner(Protocol):
    """A loaded artifact. A context manager: leaving it frees what the runtime holds."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __call__(self, feeds: Arrays) -> NamedArrays:
        """Run once on *feeds* (input name → array) and return every output by name.

        Raises:
            StageError: when an input is missing, unknown, of another type or shape, or a node
                fails.
        """

    def repeated(self, feeds: Arrays) -> Callable[[], object]:
        """Check and bind *feeds*, and return a call that runs on them: what benchmarks time.

        Raises:
            StageError: as calling the runner does.
        """

    def __enter__(self) -> Runner:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the runtime's memory."""


class Backend(ABC):
    """The operations of one runtime. Stateless.

    ``target`` is the ``build`` or ``run`` of a :class:`Way`.
    """

    name: str
    #: For each stage that it serves, raised whenever its code changes what comes out; part of keys.
    versions: ClassVar[Mapping[str, int]]
    #: Whether what it builds depends on this machine's processor (and so on its key).
    on_processor: bool = False

    # -- planner side: no heavy imports ------------------------------------------------------------

    @abstractmethod
    def way(self, config: Config, site: Site) -> Way:
        """Return how the variant *config* reaches its target.

        Raises:
            ConfigError, PlanError: the target cannot serve it, with what to do about it.
        """

    @abstractmethod
    def tools(self, target: Target) -> tuple[str, ...]:
        """Return the distributions of this interpreter whose versions decide what it produces."""

    @abstractmethod
    def probe(self) -> Probe:
        """Return whether the backend works here; never raises."""

    def forget(self, reach: Mapping[str, Any], index: Index) -> None:  # noqa: B027  (may be empty)
        """Forget what is remembered of a target, because its worker found something else there."""

    # -- worker side -------------------------------------------------------------------------------

    @abstractmethod
    def build(self, model: Path, into: Path, target: Target, job: Job, more: Built) -> Json:
        """Build the ONNX tree *model* for *target* into the empty directory *into*.

        Returns:
            JSON values: at least ``bytes``, the size of what was written.

        Raises:
            StageError: when the runtime refuses the model, or cannot load what it wrote.
        """

    @abstractmethod
    def run(
        self, model: Path, samples: Path, wanted: Sequence[str], target: Target, job: Job
    ) -> Iterator[tuple[Batch, NamedArrays]]:
        """Run *model* on every batch of *samples*; yield the *wanted* outputs, in order.

        Raises:
            StageError: an output is missing, samples do not fit the inputs, or a node fails.
        """

    @abstractmethod
    def audit(
        self, model: Path, onnx: Path | None, samples: Path, claim: Json, target: Target, job: Job
    ) -> Json:
        """Return what *model* stores and computes, held against the precision *claim*.

        Args:
            model: What :meth:`build` wrote.
            onnx: The ONNX tree it was built from.
            samples: Batches; the first ``opt`` one is run.
            claim: The fields of the Precision group that say what was asked for.
            target: The target.
            job: What it may use.

        Returns:
            The values of :func:`orchestrator.numerics.precision.audit_values`, and more.

        Raises:
            StageError: as :meth:`run` does.
        """

    @abstractmethod
    def benchmark(
        self, model: Path, samples: Path, settings: Json, target: Target, job: Job
    ) -> Json:
        """Measure *model* as *settings* (the Benchmark group) say.

        Returns:
            At least the statistics of :func:`orchestrator.numerics.timing.summary` of the first
            asked-for shape, ``machine`` and ``dims``.

        Raises:
            StageError: as :meth:`run` does.
        """


def check_outputs(names: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Check that *what* (the model, the engine) has the *wanted* outputs.

    Raises:
        StageError: it lacks one.
    """
    for name in wanted:
        if name not in names:
            raise StageError(
                f"{what} has no output '{name}'; it has {', '.join(names)}",
                where="model.outputs",
                hint=nearest(name, names) or "declare the outputs in the model's own order",
            )


def job_of(ctx: Context, *, threads: int = 1) -> Job:
    """Return what an operation of the running stage may use."""
    return Job(
        scratch=ctx.scratch,
        log=ctx.log,
        threads=threads,
        progress=ctx.progress,
        reach=ctx.reach,
        files=ctx.paths,
        locks=ctx.locks,
        shared=ctx.shared,
    )


def backend(name: str) -> Backend:
    """Return the backend *name*.

    Raises:
        PlanError: when there is none of that name.
    """
    if name not in BACKENDS:
        hint = nearest(name, BACKENDS) or f"known backends: {', '.join(BACKENDS)}"
        raise PlanError(f"there is no backend '{name}'", where="target.backend", hint=hint)
    found: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return found


def tools_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the distributions that an action with ``params["target"]`` uses (``Stage.tools``)."""
    target: Target = params["target"]
    return backend(target["backend"]).tools(target)


def scope_of(params: Mapping[str, Any]) -> Scope:
    """Return how far an action with ``params["target"]`` depends on the machine of its worker."""
    target: Target = params["target"]
    return Scope.CPU if backend(target["backend"]).on_processor else Scope.NONE
