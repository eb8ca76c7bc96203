"""Composes freshly, remembers, recalls, and tells all of it in one comparable form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.config.compose import Batch, BatchTask, Composer, VariantReturn
from orchestrator.config.purity import environment
from orchestrator.config.recording import RecordingComposer
from orchestrator.config.remember import remember
from orchestrator.config.remembered import Remembered, Request, recall
from orchestrator.config.schema import Config
from orchestrator.report.directories import save_hydra, variant_names
from orchestrator.session import typed
from orchestrator.store.index import Index

MINE = "defaults: [digits, _self_]\nname: mine\n"
FP16 = "defaults: [fp32, _self_]\nname: fp16\n"


@dataclass(frozen=True, kw_only=True)
class Words:
    """A command line."""

    overrides: tuple[str, ...] = ()
    multirun: bool = False
    config_dir: str | None = None
    config_name: str | None = None

    def request(self) -> Request:
        return Request.of(
            self.overrides,
            multirun=self.multirun,
            config_dir=self.config_dir,
            config_name=self.config_name,
        )

    def run(self, composer: Composer, take: Callable[[Batch], None]) -> None:
        def run(batch: Batch) -> list[VariantReturn]:
            take(batch)
            return [VariantReturn(passed=True) for _ in batch.variants]

        with composer:
            composer.run(self.overrides, BatchTask(run=run, dry=True), multirun=self.multirun)

    @property
    def place(self) -> Path | None:
        return Path(self.config_dir) if self.config_dir else None


def keep(words: Words, index: Index) -> str:
    """Compose *words* freshly, remember it, and return why it could not be remembered."""
    request = words.request()
    composer = RecordingComposer(words.place, words.config_name)
    why: list[str] = []

    def take(batch: Batch) -> None:
        configs = [typed(variant.config) for variant in batch.variants]
        why.append(remember(request, composer, batch, configs, index))

    words.run(composer, take)
    (reason,) = why
    return reason


def fresh(words: Words) -> dict[str, Any]:
    """Return what the plain composer gives, in the form of :func:`told`."""
    found: list[dict[str, Any]] = []

    def take(batch: Batch) -> None:
        configs = [typed(variant.config) for variant in batch.variants]
        names = variant_names(
            [one.overrides for one in batch.variants], [config.model.name for config in configs]
        )
        found.append(
            {
                "sweep": batch.sweep,
                "environment": list(environment(one.config for one in batch.variants).items()),
                "variants": [
                    (one.index, name, one.overrides, config, saved(one.config, one.overrides))
                    for one, name, config in zip(batch.variants, names, configs, strict=True)
                ],
                "subdir": batch.hydra.hydra.output_subdir,
            }
        )

    words.run(Composer(words.place, words.config_name), take)
    (one,) = found
    return one


def saved(cfg: Any, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = save_hydra(Path(name), cfg, overrides)
        return {file.name: OmegaConf.load(file) for file in folder.iterdir()}


def told(found: Remembered) -> dict[str, Any]:
    """Return what was recalled; a single run's directory is taken out of hydra.yaml again."""
    directory = Path("/some where/else")

    def texts(one: Any) -> dict[str, Any]:
        loaded = {name: OmegaConf.create(text) for name, text in one.saved(directory).items()}
        if not found.sweep:
            assert loaded["hydra.yaml"].hydra.runtime.output_dir == str(directory)
            loaded["hydra.yaml"].hydra.runtime.output_dir = "???"
        return loaded

    return {
        "sweep": found.sweep,
        "environment": list(found.environment.items()),
        "variants": [
            (one.index, one.name, one.overrides, Config.model_validate(one.config), texts(one))
            for one in found.variants
        ],
        "subdir": found.output_subdir,
    }


def recalled(words: Words, index: Index) -> Remembered:
    found = recall(words.request(), index)
    assert found is not None
    return found


def gone(words: Words, index: Index) -> bool:
    return recall(words.request(), index) is None
