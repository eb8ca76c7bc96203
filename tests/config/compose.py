"""Composes and checks configurations in this process, with files of a user beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.schema import Config
from orchestrator.config.validate import validate
from orchestrator.errors import OrchestrateError


def compose(*overrides: str) -> DictConfig:
    """Return what *overrides* compose to in the current directory; nothing runs."""
    found: list[DictConfig] = []

    def keep(batch: Batch) -> list[VariantReturn]:
        found.append(batch.hydra)
        return [VariantReturn(passed=True) for _ in batch.variants]

    with Composer() as composer:
        composer.run(list(overrides), BatchTask(run=keep, dry=True), multirun=False)
    (config,) = found
    HydraConfig.instance().set_config(config)
    return config


def checked(*overrides: str) -> Config:
    """Return the typed configuration of *overrides*."""
    return validate(compose(*overrides))


def refusal(*overrides: str) -> OrchestrateError:
    """Return the error that *overrides* end in."""
    with pytest.raises(OrchestrateError) as caught:
        checked(*overrides)
    return caught.value


def write_conf(root: Path, files: Mapping[str, str]) -> None:
    """Write ``conf/GROUP/NAME.yaml`` files below *root*."""
    for name, text in files.items():
        path = root / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
