"""Our Hydra launcher: hands a whole batch to the tool, which plans it as one graph.

Hydra accepts launchers only from the ``hydra_plugins`` namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from orchestrator.config.compose import (
    Batch,
    BatchTask,
    Composed,
    composing,
    run_with_callbacks,
)
from orchestrator.errors import ConfigError


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

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs of the batch; failures are values in the returns."""
        variants = [
            self._compose(list(overrides), initial_job_idx + number)
            for number, overrides in enumerate(job_overrides)
        ]
        HydraConfig.instance().set_config(self._config)
        directory = Path(str(OmegaConf.select(self._config, "hydra.sweep.dir")))
        batch = Batch(variants=variants, sweep=True, directory=directory, hydra=self._config)
        return run_with_callbacks(batch, self._task, self._context.callbacks)

    def _compose(self, overrides: list[str], index: int) -> Composed:
        loader = self._context.config_loader
        with composing(loader, overrides):
            config: Any = loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = str(index)
            config.hydra.job.num = index
        shown = [text for text in overrides if not text.startswith("hydra.")]
        return Composed(index=index, config=config, overrides=shown)


# A dict, not a dataclass: Hydra executes plugin modules before it registers them in sys.modules.
_NODE: Final = {"_target_": "hydra_plugins.orchestrate.launcher.OrchestrateLauncher"}


def register() -> None:
    """Make ``hydra/launcher: orchestrate`` known."""
    ConfigStore.instance().store(
        group="hydra/launcher", name="orchestrate", node=_NODE, provider="orchestrate"
    )


register()
