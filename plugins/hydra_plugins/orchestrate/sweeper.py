"""Our Hydra sweeper: Hydra's Cartesian product, in a directory that no other sweep shares."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.config.compose import BatchTask, refuse_foreign
from orchestrator.report.directories import make_exclusively


class OrchestrateSweeper(BasicSweeper):
    """As ``basic``, but the launcher composes every variant, so it is not composed twice."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra gives every sweeper."""
        refuse_foreign(config)
        self._dry = isinstance(task_function, BatchTask) and task_function.dry
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Reserve the sweep's directory, then sweep."""
        if self.config is None:
            raise AssertionError("setup() comes before sweep()")
        HydraConfig.instance().set_config(self.config)
        if self._dry:
            with tempfile.TemporaryDirectory() as directory:
                return self._sweep_in(self.config, Path(directory), arguments)
        wanted = Path(str(OmegaConf.select(self.config, "hydra.sweep.dir")))
        return self._sweep_in(self.config, make_exclusively(wanted), arguments)

    def _sweep_in(self, config: DictConfig, directory: Path, arguments: list[str]) -> Any:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(directory)
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """The launcher composes all variants before it runs any, with better messages."""


# A dict, not a dataclass: Hydra executes plugin modules before it registers them in sys.modules.
_NODE: Final = {
    "_target_": "hydra_plugins.orchestrate.sweeper.OrchestrateSweeper",
    "max_batch_size": None,
    "params": None,
}


def register() -> None:
    """Make ``hydra/sweeper: orchestrate`` known."""
    ConfigStore.instance().store(
        group="hydra/sweeper", name="orchestrate", node=_NODE, provider="orchestrate"
    )


register()
