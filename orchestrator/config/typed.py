"""From what Hydra composed to typed variants."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.batch import Batch, Composed, Settled
from orchestrator.config.compose import without_hydra
from orchestrator.config.composition import Announcement, Composition, Point
from orchestrator.config.job_logging import configure
from orchestrator.config.matrix import Matrix
from orchestrator.config.origin import task_overrides
from orchestrator.config.purity import environment_names
from orchestrator.config.schema import Config
from orchestrator.config.validate import validate
from orchestrator.errors import ConfigError
from orchestrator.plan.secrets import Secrets, variables
from orchestrator.report.directories import make_exclusively, variant_names


def typed(cfg: DictConfig) -> Config:
    """Return the typed configuration of one composed variant.

    Raises:
        ConfigError: it is wrong.
    """
    HydraConfig.instance().set_config(cfg)
    return validate(cfg)


def settled(variant: Composed) -> Settled:
    """Return a composed variant without Hydra's nodes.

    Raises:
        ConfigError: its configuration is wrong.
    """
    cfg = variant.config
    return Settled(
        index=variant.index,
        overrides=variant.overrides,
        config=typed(cfg),
        texts=saved_texts(cfg, variant.overrides),
        folder=folder_of(variant),
        variables=environment_names(cfg),
        sources=sources_of(cfg),
    )


def sources_of(cfg: DictConfig) -> list[tuple[str, str]]:
    """Return the configuration sources that Hydra looked in: (schema, path)."""
    sources = cfg.hydra.runtime.config_sources
    return [(str(source.schema), str(source.path)) for source in sources]


def composition(batch: Batch) -> Composition:
    """Return a composed batch as all that comes after composing takes it.

    Raises:
        ConfigError: a configuration is wrong.
    """
    named = variables(set().union(*map(_variables, batch.variants)))
    configs = [_config(variant) for variant in batch.variants]
    hide = Secrets(named).hide_text
    names = variant_names(
        [variant.overrides for variant in batch.variants],
        [hide(config.model.name) for config in configs],
        _shared(batch),
    )
    return Composition(
        points=[
            Point(
                index=variant.index,
                name=name,
                overrides=variant.overrides,
                config=config,
                save=partial(_save, variant),
            )
            for variant, name, config in zip(batch.variants, names, configs, strict=True)
        ],
        sweep=batch.sweep,
        environment=named,
        reserve=partial(_reserve, batch),
        log_to=partial(_log_to, batch.hydra),
        announcement=_announcement(batch.matrix) if batch.matrix else None,
    )


def _shared(batch: Batch) -> set[str]:
    """Return the overrides that all variants of the sweep have, of which this may be one batch."""
    if batch.sweep and batch.matrix is None:  # another sweeper's: what it does not vary
        params = OmegaConf.select(batch.hydra, "hydra.sweeper.params") or {}
        return {*task_overrides(batch.hydra), *(f"{key}={value}" for key, value in params.items())}
    every = batch.matrix.variants if batch.matrix else [one.overrides for one in batch.variants]
    return set.intersection(*map(set, every)) if len(every) > 1 else set()


def saved_texts(cfg: DictConfig, overrides: list[str]) -> dict[str, str]:
    """Return what Hydra saves of a variant: file name → YAML, in which variables stay names."""
    return {
        "config.yaml": OmegaConf.to_yaml(without_hydra(cfg)),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["hydra"])),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(overrides)),
    }


def _config(variant: Composed | Settled) -> Config:
    return variant.config if isinstance(variant, Settled) else typed(variant.config)


def _variables(variant: Composed | Settled) -> set[str]:
    if isinstance(variant, Settled):
        return variant.variables
    return environment_names(variant.config)


def folder_of(variant: Composed | Settled) -> str:
    """Return the name of the folder for what Hydra saves of a variant."""
    if isinstance(variant, Settled):
        return variant.folder
    return str(variant.config.hydra.output_subdir)


def _save(variant: Composed | Settled, directory: Path) -> Path:
    if isinstance(variant, Settled):
        texts = variant.texts
    else:  # a run of its own: what it saves names its directory
        texts = saved_texts(variant.config, variant.overrides)
    folder = directory / folder_of(variant)
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _reserve(batch: Batch) -> Path:
    """Make a single run's directory; a sweep's was made by its sweeper."""
    return batch.directory.absolute() if batch.sweep else make_exclusively(batch.directory)


def _log_to(cfg: DictConfig, directory: Path) -> None:
    place(cfg, str(directory))
    HydraConfig.instance().set_config(cfg)
    configure(logging_of(cfg), verbose_of(cfg))


def logging_of(cfg: DictConfig) -> dict[str, Any]:
    """Return ``hydra.job_logging``, resolved.

    Raises:
        ConfigError: it does not resolve, or is no mapping.
    """
    try:
        found = OmegaConf.to_container(cfg.hydra.job_logging, resolve=True)
    except (OmegaConfBaseException, ValueError) as exc:
        raise ConfigError(str(exc).splitlines()[0], where="hydra/job_logging") from exc
    if not isinstance(found, dict):
        raise ConfigError("expected a mapping", where="hydra/job_logging")
    return {str(key): value for key, value in found.items()}


def verbose_of(cfg: DictConfig) -> Any:
    """Return ``hydra.verbose``: a bool, a logger's name or a list of names."""
    found = cfg.hydra.verbose
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def place(cfg: DictConfig, directory: str) -> None:
    """Tell a composed configuration its run's directory, as Hydra does."""
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = directory
    with read_write(cfg.hydra.job), open_dict(cfg.hydra.job):
        cfg.hydra.job.name = "orchestrate"


def _announcement(matrix: Matrix) -> Announcement:
    rules: dict[str, Any] = matrix.as_json()
    return Announcement(lines=matrix.lines(), warnings=matrix.warnings(), rules=rules)
