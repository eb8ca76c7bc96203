"""Another sweeper than ours around our launcher: how its end is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from orchestrator.config.hydra_errors import COMPOSITION_ERRORS
from orchestrator.config.matrix import OURS
from orchestrator.errors import ConfigError, OrchestrateError

if TYPE_CHECKING:
    from orchestrator.config.batch import BatchTask

#: Hydra's own: it makes the product of all values, as ours, and reads no value of a variant.
BASIC: Final = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def sweeper_of(cfg: DictConfig) -> str:
    """Return the dotted name of a composed multirun's sweeper."""
    return str(OmegaConf.select(cfg, "hydra.sweeper._target_") or "")


@contextmanager
def told(cfg: DictConfig, task: BatchTask) -> Iterator[None]:
    """Tell what ends the block, in which a sweeper runs, in the user's terms; ours does itself.

    After a batch that ended the sweep (Ctrl-C, ``--fail-fast``) nothing is raised: its results
    say it.

    Raises:
        ConfigError: the sweeper cannot begin.
        OrchestrateError: a failed trial ended the search, no trial has a value, or the sweeper
            failed; what the runs of the batches raise.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as exc:
        if not task.returns and task.directory is not None:
            with suppress(OSError):
                task.directory.rmdir()
        if any(one.ends_sweep for one in task.returns):
            return
        error = None if sweeper_of(cfg) == OURS else _translated(exc, task)
        if error is None:
            raise
        raise error from exc


def _translated(exc: BaseException, task: BatchTask) -> OrchestrateError | None:
    """Return what an exception means to the user; None where it says so itself."""
    if any(exc is one.error for one in task.returns):
        return OrchestrateError(
            f"the sweeper ended the search at a failed trial: {exc}",
            where="hydra/sweeper",
            hint="Optuna's goes on with hydra.sweeper.max_failure_rate=1.0",
        )
    if isinstance(exc, InstantiationException) and exc.__cause__ is not None:
        exc = exc.__cause__
    ours = (OrchestrateError, KeyboardInterrupt, *COMPOSITION_ERRORS)
    if isinstance(exc, ours) or exc is task.raised:
        return None
    reason = f"{type(exc).__name__}: {exc}"
    if not task.returns:
        return ConfigError(f"the sweeper cannot begin: {reason}", where="hydra/sweeper")
    errors = [one.error for one in task.returns]
    return OrchestrateError(
        f"no trial has a value ({reason})" if all(errors) else f"the sweeper failed: {reason}",
        where="hydra/sweeper",
        hint=f"the last trial: {errors[-1].render()}" if errors[-1] else "",
    )
