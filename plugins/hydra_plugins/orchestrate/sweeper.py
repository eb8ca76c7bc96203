"""Our Hydra sweeper: the product of all values with rules, in a directory no other sweep shares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.config.batch import BatchTask, VariantReturn
from orchestrator.config.compose import refuse_foreign
from orchestrator.config.matrix import Matrix, read_matrix
from orchestrator.config.purity import environment
from orchestrator.errors import ConfigError
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import reserved


class OrchestrateSweeper(Sweeper):
    """Hands the launcher all variants at once; it composes them, so they are not composed twice."""

    def __init__(
        self,
        params: Any = None,
        exclude: Any = None,
        include: Any = None,
        max_batch_size: int | None = None,
    ) -> None:
        """Take what ``hydra.sweeper`` has; see :func:`orchestrator.config.matrix.read_matrix`."""
        section = {"params": params, "exclude": exclude, "include": include}
        self._section = {
            name: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for name, value in section.items()
        }
        self._size = max_batch_size

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives every sweeper."""
        refuse_foreign(config)
        self.config = config
        self.hydra_context = hydra_context
        self._task = task_function if isinstance(task_function, BatchTask) else None
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Reserve the sweep's directory and run all variants.

        Raises:
            ConfigError: there are none, a rule is wrong, or the directory cannot be made.
            OrchestrateError: whatever the run raises.
        """
        if self.config is None:
            raise AssertionError("setup() comes before sweep()")
        HydraConfig.instance().set_config(self.config)
        matrix = self._matrix(self.config, arguments)
        if self._task is not None:
            self._task.matrix = matrix
            if self._task.dry:
                with tempfile.TemporaryDirectory() as directory:
                    return self._sweep_in(self.config, Path(directory), matrix)
        wanted = Path(str(OmegaConf.select(self.config, "hydra.sweep.dir")))
        with reserved(wanted) as directory:
            return self._sweep_in(self.config, directory, matrix)

    def _matrix(self, config: DictConfig, arguments: list[str]) -> Matrix:
        if self.hydra_context is None:
            raise AssertionError("setup() comes before sweep()")
        try:
            found = read_matrix(self._section, arguments, config, self.hydra_context.config_loader)
        except ConfigError as exc:
            hidden = Secrets(environment([config])).hide_text
            raise ConfigError(
                hidden(exc.message), where=hidden(exc.where), hint=hidden(exc.hint)
            ) from None
        declared = self._task is not None and self._task.declared
        return replace(found, declared=declared)

    def _sweep_in(self, config: DictConfig, directory: Path, matrix: Matrix) -> Any:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(directory)
        OmegaConf.save(config, directory / "multirun.yaml")
        if self.launcher is None:
            raise AssertionError("setup() comes before sweep()")
        returns: list[Sequence[JobReturn]] = []
        size = self._size or len(matrix.variants)
        for first in range(0, len(matrix.variants), size):
            batch = matrix.variants[first : first + size]
            returns.append(self.launcher.launch(batch, initial_job_idx=first))
            if any(_ends_sweep(one) for one in returns[-1]):
                break
        return returns


def _ends_sweep(job: JobReturn) -> bool:
    given = job.return_value
    return isinstance(given, VariantReturn) and given.ends_sweep


# A dict, not a dataclass: Hydra executes plugin modules before it registers them in sys.modules.
_NODE: Final = {
    "_target_": "hydra_plugins.orchestrate.sweeper.OrchestrateSweeper",
    "max_batch_size": None,
    "params": None,
    "exclude": None,
    "include": None,
}


def register() -> None:
    """Make ``hydra/sweeper: orchestrate`` known."""
    ConfigStore.instance().store(
        group="hydra/sweeper", name="orchestrate", node=_NODE, provider="orchestrate"
    )


register()
