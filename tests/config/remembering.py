"""Composes freshly, remembers, recalls, and tells all of it in one comparable form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.config.batch import Batch, BatchTask, VariantReturn
from orchestrator.config.compose import Composer
from orchestrator.config.composition import Composition, Point
from orchestrator.config.recording import RecordingComposer
from orchestrator.config.remember import remember
from orchestrator.config.remembered import Request, recall
from orchestrator.config.typed import composition
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

    def run(
        self,
        composer: Composer,
        take: Callable[[Batch], None],
        settling: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        def run(batch: Batch) -> list[VariantReturn]:
            take(batch)
            return [VariantReturn(passed=True) for _ in batch.variants]

        with composer:
            task = BatchTask(run=run, dry=True, settling=settling)
            composer.run(self.overrides, task, multirun=self.multirun)

    @property
    def place(self) -> Path | None:
        return Path(self.config_dir) if self.config_dir else None


def keep(words: Words, index: Index) -> str:
    """Compose *words* freshly, remember it, and return why it could not be remembered."""
    request = words.request()
    composer = RecordingComposer(words.place, words.config_name)
    why: list[str] = []
    words.run(
        composer,
        lambda batch: why.append(remember(request, composer, batch, composition(batch), index)),
        composer.recording.strict,
    )
    (reason,) = why
    return reason


def fresh(words: Words) -> dict[str, Any]:
    """Return what the plain composer gives, in the form of :func:`told`."""
    found: list[dict[str, Any]] = []
    composer = Composer(words.place, words.config_name)
    words.run(composer, lambda batch: found.append(told(composition(batch))))
    (one,) = found
    return one


def told(found: Composition) -> dict[str, Any]:
    """Return all of a composition but the moment at which it was made."""
    return {
        "sweep": found.sweep,
        "environment": list(found.environment.items()),
        "announcement": found.announcement and asdict(found.announcement),
        "variants": [
            (one.index, one.name, one.overrides, one.config, saved(one, sweep=found.sweep))
            for one in found.points
        ],
    }


def saved(point: Point, *, sweep: bool) -> dict[str, Any]:
    """Return what a variant saves; a single run's directory is taken out of hydra.yaml."""
    with tempfile.TemporaryDirectory(suffix=" with a space") as name:
        folder = point.save(Path(name))
        loaded: dict[str, Any] = {
            file.name: OmegaConf.to_container(OmegaConf.load(file)) for file in folder.iterdir()
        }
        if not sweep:
            hydra = loaded["hydra.yaml"]["hydra"]
            assert hydra["runtime"]["output_dir"] in (name, "???")
            hydra["runtime"]["output_dir"] = "???"
            hydra["job"]["name"] = "orchestrate"
        return {"folder": folder.name, **loaded}


def recalled(words: Words, index: Index) -> Composition:
    found = recall(words.request(), index, ExitStack())
    assert found is not None
    return found


def gone(words: Words, index: Index) -> bool:
    return recall(words.request(), index, ExitStack()) is None
