"""What composing hands on: the variants of one run, and the task that takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from orchestrator.config.matrix import Matrix
from orchestrator.errors import OrchestrateError

if TYPE_CHECKING:
    from orchestrator.config.schema import Config


@dataclass(frozen=True, kw_only=True)
class Composed:
    """One variant as Hydra composed it, ``hydra`` section included."""

    index: int
    config: DictConfig
    overrides: list[str]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """One variant without Hydra's nodes, which take some 300 kB for each variant.

    Attributes:
        config: The typed configuration.
        texts: What Hydra saves of it: file name → YAML.
        folder: The name of the folder for them (``hydra.output_subdir``).
        variables: The environment variables that it names.
        sources: The configuration sources that Hydra looked in: (schema, path).
    """

    index: int
    overrides: list[str]
    config: Config
    texts: dict[str, str]
    folder: str
    variables: set[str]
    sources: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """All variants of one run.

    Attributes:
        variants: Settled ones in a sweep of ours without callbacks.
        sweep: A multirun; a single run otherwise.
        directory: ``hydra.run.dir`` or ``hydra.sweep.dir``, resolved, not yet made.
        hydra: The composed configuration that the directory belongs to.
        matrix: How the variants of a whole sweep came about, of which this may be a part; None for
            a single run.
    """

    variants: Sequence[Composed | Settled]
    sweep: bool
    directory: Path
    hydra: DictConfig
    matrix: Matrix | None = None


@dataclass(frozen=True, kw_only=True)
class VariantReturn:
    """What a batch gives back for each variant.

    Attributes:
        passed: It was built, and every gate was passed.
        value: What ``objective.value`` names, one number or several; None for a failed trial.
        error: Why there is no value; of a variant that failed, why.
        directory: Its experiment directory.
        interrupted: The run ended before it was settled.
        ends_sweep: No further batch is wanted.
    """

    passed: bool
    value: float | tuple[float, ...] | None = None
    error: OrchestrateError | None = None
    directory: Path | None = None
    interrupted: bool = False
    ends_sweep: bool = False


@dataclass(kw_only=True)
class BatchTask:
    """The task function that Hydra carries to our launcher; it takes whole batches.

    A *dry* task makes no directories. It is *declared* when the configuration makes it a sweep,
    without ``-m``. Our sweeper leaves its *matrix* here, which stays None under another one; for
    that, our launcher leaves the sweep's *directory*. What a batch *raised* is no sweeper's fault.
    Variants are settled within *settling*.
    """

    run: Callable[[Batch], list[VariantReturn]]
    dry: bool = False
    declared: bool = False
    matrix: Matrix | None = None
    settling: Callable[[], AbstractContextManager[None]] = nullcontext
    directory: Path | None = None
    raised: Exception | None = None
    returns: list[VariantReturn] = field(default_factory=list)

    def __call__(self, _: DictConfig) -> Any:
        """Refuse to run one job at a time."""
        raise AssertionError("refuse_foreign() leaves our launcher only, which calls launch()")

    def launch(self, batch: Batch) -> list[VariantReturn]:
        """Run one batch; a sweeper may send several."""
        try:
            found = self.run(replace(batch, matrix=self.matrix))
        except Exception as exc:
            self.raised = exc
            raise
        self.returns += found
        return found
