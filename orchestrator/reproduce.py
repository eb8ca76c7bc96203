"""Builds the variant of an experiment directory again and compares it, stage by stage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import orchestrator
from orchestrator.config.batch import Batch
from orchestrator.config.saved import directory_of, saved, with_store, without_measurements
from orchestrator.config.typed import composition
from orchestrator.errors import UsageError
from orchestrator.plan.reasons import History
from orchestrator.report.recorded import Recorded, experiments, recorded
from orchestrator.report.sameness import Build, Line, changed_tools, compare, machine_of
from orchestrator.session import Options, Session, cache_directory
from orchestrator.store.results import Results


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How a second build compares with the recorded one.

    Attributes:
        lines: One for each action of the recorded build.
        notes: In what tools, machine and place differ from the recorded ones.
        interrupted: Ctrl-C ended the second build, so that nothing was compared.
    """

    lines: list[Line]
    notes: list[str]
    interrupted: bool = False

    @property
    def same(self) -> bool:
        """Whether no action differs."""
        return not any(line.verdict == "differs" for line in self.lines)


def reproduce(directory: Path, console: Console, *, clean: bool, quiet: bool) -> Reproduction:
    """Build the variant of the experiment in *directory* again, without its measurements.

    It is built from the configuration that the directory keeps, and from the model, data and tools
    as they are now. Its own experiment directory is temporary.

    Args:
        directory: An experiment directory.
        console: Where progress is shown.
        clean: Build in an empty store, which is temporary: everything runs.
        quiet: Show no progress.

    Raises:
        UsageError: there is no experiment in *directory*, or it is damaged.
        ConfigError, PlanError, StoreError: as for any build.
    """
    experiment = _one(directory)
    variant = saved(directory / str(experiment.manifest.get("hydra", ".hydra")))
    without_measurements(variant)
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as temporary:
        if clean:
            with_store(variant, Path(temporary) / "store")
        composed = composition(
            Batch(
                variants=[variant],
                sweep=False,
                directory=Path(temporary) / "experiment",
                hydra=variant.config,
            )
        )
        config = composed.points[0].config
        session = Session(console, Options(quiet=quiet))
        session.run(composed)
        if session.interrupted:
            return Reproduction(lines=[], notes=[], interrupted=True)
        first = Build(manifest=experiment.manifest, history=_history(experiment.store))
        second = Build(
            manifest=session.results[0].manifest, history=_history(cache_directory(config.cache))
        )
        notes = [*session.warnings, *surroundings(first, second, directory_of(variant))]
        return Reproduction(lines=compare(first, second, config), notes=notes)


def _one(directory: Path) -> Recorded:
    found = experiments(directory)
    if found != [directory]:
        raise UsageError(
            f"this is the directory of a sweep with {len(found)} variants",
            where=str(directory),
            hint=f"give one of them, such as {found[0]}",
        )
    return recorded(directory)


def _history(store: Path | None) -> History | None:
    return History(Results(store)) if store is not None else None


def surroundings(first: Build, second: Build, directory: str) -> Iterator[str]:
    """Yield a sentence for each of version, tools, machine and place that is not as recorded.

    Args:
        first: The recorded build.
        second: The build of today.
        directory: Where the recorded one was made; '' when unknown.
    """
    version = first.manifest.get("orchestrate")
    if version != orchestrator.__version__:
        yield f"built by orchestrate {version}, this is {orchestrator.__version__}"
    if tools := changed_tools(first, second):
        yield f"tools differ from the recorded ones: {', '.join(tools)}"
    before, now = machine_of(first), machine_of(second)
    if before is None and now is not None:
        yield "which processor it was built on is not known: its store is gone"
    elif before is not None and now is not None and before != now:
        yield f"the machine differs: built on {_named(before, now)}, this is {_named(now, before)}"
    if directory and Path(directory) != Path.cwd():
        yield f"built in {directory}; relative paths and local modules are taken from here"


def _named(machine: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return a processor's name; and, where both have the same, what it can and the other not."""
    name = str(machine.get("model", "an unknown processor"))
    more = sorted({*machine.get("flags", ())} - {*other.get("flags", ())})
    return f"{name} (with {' '.join(more)})" if more else name
