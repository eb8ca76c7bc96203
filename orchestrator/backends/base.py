"""What a backend is: the few operations behind which ONNX becomes something runnable.

The planner imports backends for what they say about this machine (:meth:`Backend.tools`,
:meth:`Backend.identity`, :meth:`Backend.probe`) and must stay light: a backend's package imports
its runtime only inside methods. Workers call the rest. The stages ``build``, ``run``, ``audit`` and
``benchmark`` know this interface and no runtime.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import PlanError, nearest

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    NamedArrays = dict[str, np.ndarray[Any, Any]]

Json = dict[str, Any]
Target = Mapping[str, Any]

#: Name of a backend (``target.backend``) to the module that holds its ``BACKEND``.
BACKENDS: Final[Mapping[str, str]] = {"onnxruntime": "orchestrator.backends.onnxruntime"}


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


@dataclass(frozen=True, kw_only=True)
class Job:
    """What an operation may use while it runs: threads, a scratch directory, the action's log."""

    scratch: Path
    log: Callable[[str], None]
    threads: int = 1


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
    """The operations of one runtime. Stateless; ``target`` is the resolved target group as JSON."""

    name: str

    # -- planner side: no heavy imports ------------------------------------------------------------

    @abstractmethod
    def tools(self, target: Target) -> tuple[str, ...]:
        """Return the distributions whose versions decide what this backend produces."""

    @abstractmethod
    def identity(self, target: Target) -> Json:
        """Return what of this machine decides what is built (instruction sets, GPU), for keys.

        Raises:
            PlanError: when the target cannot be served here, with what to do about it.
        """

    @abstractmethod
    def probe(self) -> Probe:
        """Return whether the backend works here; never raises."""

    # -- worker side -------------------------------------------------------------------------------

    @abstractmethod
    def build(self, model: Path, into: Path, target: Target, job: Job) -> Json:
        """Build the ONNX tree *model* for *target* into the empty directory *into*.

        Returns:
            JSON values: at least ``bytes``, the size of what was written.

        Raises:
            StageError: when the runtime refuses the model, or cannot load what it wrote.
        """

    @abstractmethod
    def open(self, model: Path, target: Target, job: Job) -> Runner:
        """Load a tree — what :meth:`build` wrote, or an ONNX tree — and return its runner.

        Raises:
            StageError: when the runtime refuses it.
        """

    @abstractmethod
    def observe(self, model: Path, target: Target, feeds: Arrays, job: Job) -> Observed:
        """Run *model* once on *feeds* under the runtime's profiler, and read what it stores.

        Raises:
            StageError: as :meth:`open` and the runner do.
        """


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
