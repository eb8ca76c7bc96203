"""Our Hydra launcher: hands a whole batch to the tool, which plans it as one graph.

Hydra accepts launchers only from the ``hydra_plugins`` namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.config.batch import Batch, BatchTask, Composed, Settled, VariantReturn
from orchestrator.config.compose import composing, refuse_unsupported, run_with_callbacks
from orchestrator.config.matrix import OURS
from orchestrator.config.objective import check_objective
from orchestrator.config.searching import BASIC, sweeper_of
from orchestrator.config.typed import settled, typed
from orchestrator.errors import ConfigError
from orchestrator.report.directories import make_exclusively


class OrchestrateLauncher(Launcher):
    """Composes every variant of a batch once and runs them as one graph."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives every launcher."""
        if not isinstance(task_function, BatchTask):
            raise ConfigError(
                "this launcher belongs to the orchestrate command",
                where="hydra/launcher=orchestrate",
                hint="choose another launcher for this application",
            )
        self._context = hydra_context
        self._task = task_function
        self._config = config
        self._sweeper = sweeper_of(config)
        if self._sweeper != OURS:
            self._host(config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs of the batch.

        Returns:
            For our sweeper and Hydra's own a :class:`VariantReturn` each, failed or not; for one
            that searches the numbers of the objective, and of a failed trial its error.

        Raises:
            ConfigError: the objective of a search needs what is not measured.
            KeyboardInterrupt: Ctrl-C, in a batch of another sweeper than ours.
            OrchestrateError: the failure that ended such a sweep (``--fail-fast``); whatever the
                run raises.
        """
        composed = (
            self._compose(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        )
        searched = self._sweeper not in (OURS, BASIC)
        variants: list[Composed | Settled] = []
        for variant in composed:
            if searched:
                self._check_objective(variant)
            variants.append(self._settled(variant))
        HydraConfig.instance().set_config(self._config)
        directory = Path(str(OmegaConf.select(self._config, "hydra.sweep.dir")))
        batch = Batch(variants=variants, sweep=True, directory=directory, hydra=self._config)
        jobs = run_with_callbacks(batch, self._task, self._context.callbacks)
        if self._sweeper != OURS:
            _end([job.return_value for job in jobs])
        return [_trial(job) for job in jobs] if searched else jobs

    def _host(self, config: DictConfig) -> None:
        """Prepare for another sweeper what ours prepares itself.

        Raises:
            ConfigError: nothing shall run, or the directory cannot be made.
        """
        if self._task.dry:
            raise ConfigError(
                "another sweeper than ours chooses variants while they run, so they are not known",
                where="hydra/sweeper",
                hint="hydra/sweeper=orchestrate makes the product of the same values",
            )
        directory = make_exclusively(Path(str(OmegaConf.select(config, "hydra.sweep.dir"))))
        self._task.directory = directory
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(directory)

    def _check_objective(self, variant: Composed) -> None:
        directions = OmegaConf.select(self._config, "hydra.sweeper.direction")
        wanted = len(directions) if OmegaConf.is_list(directions) else 1
        config = typed(variant.config)
        check_objective(config)
        given = len(config.objective.names)
        if directions is not None and given != wanted:
            raise ConfigError(
                f"names {given} numbers, but the sweeper has {wanted} directions",
                where="objective.value",
                hint="give hydra.sweeper.direction one entry for each, such as [minimize,maximize]",
            )

    def _settled(self, variant: Composed) -> Composed | Settled:
        """Let go of Hydra's nodes, unless callbacks or another sweeper may ask for them."""
        if self._sweeper != OURS or self._config.hydra.callbacks:
            return variant
        refuse_unsupported(variant.config)
        with self._task.settling():
            return settled(variant)

    def _compose(self, overrides: list[str], index: int) -> Composed:
        loader = self._context.config_loader
        with composing(loader, overrides):
            config: Any = loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = str(index)
            config.hydra.job.num = index
        shown = [text for text in overrides if not text.startswith("hydra.")]
        return Composed(index=index, config=config, overrides=shown)


class _Trial(JobReturn):
    """A job as a search wants it: a failed one raises why, without a line on standard error."""

    @property
    def return_value(self) -> Any:
        if self.status is JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def _trial(job: JobReturn) -> JobReturn:
    given: VariantReturn = job.return_value
    found = _Trial(job.overrides, job.cfg, job.hydra_cfg, job.working_dir, job.task_name)
    found.status = JobStatus.COMPLETED if given.error is None else JobStatus.FAILED
    found.return_value = given.value if given.error is None else given.error
    return found


def _end(returns: Sequence[VariantReturn]) -> None:
    """End another sweeper's sweep by an exception when no further batch is wanted.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        OrchestrateError: a variant failed and ``--fail-fast`` was given.
    """
    for one in returns:
        if one.ends_sweep and not one.interrupted and one.error is not None:
            raise one.error
    if any(one.ends_sweep for one in returns):
        raise KeyboardInterrupt


# A dict, not a dataclass: Hydra executes plugin modules before it registers them in sys.modules.
_NODE: Final = {"_target_": "hydra_plugins.orchestrate.launcher.OrchestrateLauncher"}


def register() -> None:
    """Make ``hydra/launcher: orchestrate`` known."""
    ConfigStore.instance().store(
        group="hydra/launcher", name="orchestrate", node=_NODE, provider="orchestrate"
    )


register()
