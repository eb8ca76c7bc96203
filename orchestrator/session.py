"""One run: composed variants → typed configurations → one graph → executor → directories."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from orchestrator.backends.base import Site
from orchestrator.config.composition import Composition
from orchestrator.config.schema import Cache, Config
from orchestrator.errors import ConfigError, OrchestrateError
from orchestrator.executor.local import LocalExecutor
from orchestrator.executor.machine import cores
from orchestrator.executor.outcome import Listener, Outcome
from orchestrator.executor.pool import Pool
from orchestrator.locations import home_expanded
from orchestrator.plan.chain import add_variant
from orchestrator.plan.graph import Graph, Variant
from orchestrator.plan.inputs import Files
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import make_exclusively
from orchestrator.report.events import EventStream
from orchestrator.report.experiment import Run, VariantResult, artifacts_of, write_experiment
from orchestrator.report.live import LiveView
from orchestrator.report.sweep import write_sweep
from orchestrator.report.table import markdown
from orchestrator.stages.catalogue import stage
from orchestrator.store.collection import pin, touch
from orchestrator.store.files import write_durably
from orchestrator.store.store import Store, default_directory, explained

LOGGER = logging.getLogger("orchestrate")


@dataclass(kw_only=True)
class Options:
    """What the command line asks for besides the configuration.

    With *events*, JSON lines on standard error tell what happens, and no live view.
    """

    rebuild: Collection[str] = ()
    quiet: bool = False
    verbose: bool = False
    events: bool = False
    retry_failed: bool = False
    fail_fast: bool = False


@dataclass(kw_only=True)
class Planned:
    """A batch as one graph, and what is needed to resolve and run it."""

    graph: Graph
    store: Store
    resolver: Resolver
    observer: Observer
    secrets: Secrets
    scratch: Path
    base: Path
    search_path: list[str] = field(default_factory=list)


def stages_named(texts: Iterable[str]) -> list[str]:
    """Return the stages that ``--rebuild`` names; one text may hold several, with commas.

    Raises:
        UsageError: there is no such stage.
    """
    names = [name for text in texts for name in text.split(",")]
    for name in names:
        stage(name)
    return names


@contextmanager
def planned(composition: Composition, rebuild: Collection[str] = ()) -> Iterator[Planned]:
    """Plan all variants as one graph; the store's session ends with the block.

    Raises:
        ConfigError, PlanError, StoreError: what a user can mend.
    """
    secrets = Secrets(composition.environment)
    configs = [point.config for point in composition.points]
    _refuse_differences(configs)
    store = Store(cache_directory(configs[0].cache))
    base = Path.cwd()
    try:
        scratch = store.begin()
        site = Site(files=Files(base, store.index), index=store.index)
        graph = _graph(composition, site)
        search_path = [path for path in sys.path if path and Path(path) != base]
        observer = Observer(base, [str(base), *search_path], store.index)
        resolver = Resolver(store, observer, secrets, rebuild=rebuild, fresh=graph.fresh)
        yield Planned(
            graph=graph,
            store=store,
            resolver=resolver,
            observer=observer,
            secrets=secrets,
            scratch=scratch,
            base=base,
            search_path=search_path,
        )
    except OrchestrateError as exc:
        hide_in_error(exc, secrets)
        raise
    finally:
        store.end()


def _graph(composition: Composition, site: Site) -> Graph:
    graph = Graph()
    for number, point in enumerate(composition.points):
        variant = Variant(
            index=number, name=point.name, config=point.config, overrides=point.overrides
        )
        add_variant(graph, variant, site)
    return graph


def _refuse_differences(configs: Sequence[Config]) -> None:
    """Refuse a sweep over what the whole run has once: its store and its executor.

    Raises:
        ConfigError: two variants differ there.
    """
    settings = [
        {"cache.dir": one.cache.dir}
        | {f"executor.{name}": value for name, value in one.executor.model_dump().items()}
        for one in configs
    ]
    for other in settings[1:]:
        for key, value in settings[0].items():
            if other[key] != value:
                raise ConfigError(
                    "differs between the variants, but they run as one graph, in one store",
                    where=key,
                    hint="give one value for the whole sweep, or make several runs",
                )


def hide_in_error(error: OrchestrateError, secrets: Secrets) -> None:
    """Hide values of environment variables in what an error says."""
    error.message = secrets.hide_text(error.message)
    error.where = secrets.hide_text(error.where)
    error.hint = secrets.hide_text(error.hint)
    error.args = (error.message,)


class Session:
    """Runs batches and remembers their results for the table."""

    def __init__(self, console: Console, options: Options) -> None:
        """Take where progress is shown, and the options.

        Raises:
            UsageError: ``options.rebuild`` names no stage.
        """
        stages_named(options.rebuild)
        self._console = console
        self._options = options
        self.results: list[VariantResult] = []
        self.warnings: list[str] = []
        self.counts: dict[str, int] = {}
        self.directory: Path | None = None
        self.interrupted = False
        self._started = time.time()

    @property
    def fail_fast(self) -> bool:
        """Whether the first variant that fails ends the run."""
        return self._options.fail_fast

    def run(self, composition: Composition) -> list[VariantResult]:
        """Plan and run one batch; write an experiment directory for each variant.

        Raises:
            ConfigError, PlanError, StoreError: before anything runs, or when the disk refuses.
        """
        started = time.time()
        with planned(composition, self._options.rebuild) as plan:
            self._announce(composition, plan.secrets)
            directories = self._directories(composition)
            outcome = self._execute(plan)
            _hide_secrets(outcome, plan.secrets)
            touch(plan.store, [one.result.key for one in outcome.finished.values() if one.result])
            pin(
                plan.store,
                {
                    directory: artifacts_of(variant, outcome).values()
                    for variant, directory in zip(plan.graph.variants, directories, strict=True)
                },
            )
            statuses = _Statuses(outcome)
            run = Run(
                variants=plan.graph.variants,
                outcome=outcome,
                store=plan.store,
                secrets=plan.secrets,
                started=started,
            )
            found = [
                write_experiment(
                    run, variant, point, statuses.of(variant), directories[variant.index]
                )
                for variant, point in zip(plan.graph.variants, composition.points, strict=True)
            ]
        self.results += found
        self._write_summary(composition, plan.secrets)
        self.warnings += outcome.warnings
        self.interrupted = self.interrupted or outcome.interrupted
        return found

    def _announce(self, composition: Composition, secrets: Secrets) -> None:
        """Say why this is a sweep, and what its rules did."""
        announcement = composition.announcement
        if announcement is None or not composition.first:
            return
        self.warnings += map(secrets.hide_text, announcement.warnings)
        if not self._options.quiet:
            for line in announcement.lines:
                self._console.print(secrets.hide_text(line), highlight=False, markup=False)

    def _write_summary(self, composition: Composition, secrets: Secrets) -> None:
        """Write the table, and of a sweep the combined manifest, of all variants so far."""
        if self.directory is None:
            return
        with explained(self.directory):
            summary = markdown([result.summary for result in self.results])
            write_durably(self.directory / "summary.md", summary.encode())
            if composition.sweep:
                rules = composition.announcement.rules if composition.announcement else {}
                write_sweep(
                    self.directory,
                    self.results,
                    started=self._started,
                    matrix=secrets.hide(rules),
                    actions=self.counts,
                )

    def _execute(self, plan: Planned) -> Outcome:
        executor = plan.graph.variants[0].config.executor
        pool = Pool(plan.base, plan.scratch, plan.search_path)
        with self._watching(plan) as listener:
            try:
                outcome = LocalExecutor(
                    plan.graph,
                    plan.store,
                    plan.resolver,
                    plan.observer,
                    plan.secrets,
                    pool,
                    listener,
                    scratch=plan.scratch,
                    base=plan.base,
                    workers=executor.workers or cores(),
                    memory_bytes=_bytes(executor.memory_gib),
                    timeout_s=executor.timeout_s,
                    rebuild=self._options.rebuild,
                    retries=executor.retries,
                    retry_failed=self._options.retry_failed,
                    fail_fast=self._options.fail_fast,
                ).run()
            finally:
                pool.stop()
        for status, count in Counter(one.status for one in outcome.finished.values()).items():
            self.counts[status] = self.counts.get(status, 0) + count
        return outcome

    def _watching(self, plan: Planned) -> AbstractContextManager[Listener]:
        if self._options.events:
            return nullcontext(EventStream(plan.secrets.hide))
        return LiveView(
            self._console,
            quiet=self._options.quiet,
            verbose=self._options.verbose,
            hide=plan.secrets.hide_text,
        )

    def _directories(self, composition: Composition) -> list[Path]:
        self.directory = composition.reserve()
        composition.log_to(self.directory)
        count = len(composition.points)
        LOGGER.info("%d variants, one directory each below %s", count, self.directory)
        if not composition.sweep:
            return [self.directory]
        return [make_exclusively(self.directory / point.name) for point in composition.points]


def _hide_secrets(outcome: Outcome, secrets: Secrets) -> None:
    outcome.warnings = [secrets.hide_text(text) for text in outcome.warnings]
    for error in [one for errors in outcome.failures.values() for one in errors]:
        hide_in_error(error, secrets)


class _Statuses:
    """Statuses as each variant sees them: what one variant ran, the next ones share."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._credited: set[str] = set()

    def of(self, variant: Variant) -> dict[str, str]:
        """Return the status of each action of *variant*; call once for each variant, in order."""
        found: dict[str, str] = {}
        for step in variant.steps:
            status: str = self._outcome.finished[step.action].status
            if status == "ran" and step.action in self._credited:
                status = "shared"
            found[step.action] = status
        self._credited.update(found)
        return found


def cache_directory(cache: Cache) -> Path:
    """Return the directory of the store that a configuration names.

    Raises:
        ConfigError, StoreError: it is below a home directory that nobody knows.
    """
    return home_expanded(cache.dir, where="cache.dir") if cache.dir else default_directory()


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
