"""The configuration that an experiment directory keeps, as Hydra would compose it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra.conf import HydraConf
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.batch import Composed
from orchestrator.errors import UsageError


def saved(folder: Path) -> Composed:
    """Return the variant whose configuration lies in *folder*, which is usually ``.hydra``.

    Interpolations are as they were written: a variable of the environment has today's value.

    Raises:
        UsageError: a file is missing or damaged.
    """
    setup_globals()  # the resolvers of ${hydra:...} and ${now:...}
    task, hydra = _load(folder / "config.yaml"), _load(folder / "hydra.yaml")
    overrides = _load(folder / "overrides.yaml")
    try:
        config = OmegaConf.create({})
        node = OmegaConf.structured(HydraConf)
        with open_dict(node):  # groups of Hydra add keys to it, such as hydra/env
            node.merge_with(hydra.hydra)
        config.hydra = node
        config.merge_with(task)
    except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as exc:
        raise UsageError(
            f"is no configuration that orchestrate saved: {str(exc).splitlines()[0]}",
            where=str(folder),
            hint="give a directory that 'orchestrate build' made, as it was made",
        ) from exc
    return Composed(index=0, config=config, overrides=[str(text) for text in overrides])


def without_measurements(composed: Composed) -> None:
    """Leave the benchmark out of a variant."""
    OmegaConf.update(composed.config, "benchmark.enabled", False, force_add=True)


def with_store(composed: Composed, store: Path) -> None:
    """Let a variant be built in another store."""
    OmegaConf.update(composed.config, "cache.dir", str(store), force_add=True)


def directory_of(composed: Composed) -> str:
    """Return the working directory of the command that composed the variant; '' when unknown."""
    config: DictConfig = composed.config
    return str(OmegaConf.select(config, "hydra.runtime.cwd") or "")


def _load(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except FileNotFoundError:
        raise UsageError(
            "the saved configuration is gone",
            where=str(path),
            hint="only an experiment directory that is whole can be built again",
        ) from None
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as exc:
        text = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise UsageError(f"the saved configuration cannot be read: {text}", where=str(path)) from (
            exc
        )
