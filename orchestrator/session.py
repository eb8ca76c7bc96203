"""One run: composed variants → typed configurations → one graph → executor → directories."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, open_dict, read_write
from rich.console import Console

from orchestrator.backends.base import Site
from orchestrator.config.compose import Batch, Composed, VariantReturn
from orchestrator.config.purity import environment
from orchestrator.config.schema import Cache, Config
from orchestrator.config.validate import validate
from orchestrator.errors import ConfigError, OrchestrateError
from orchestrator.executor.local import LocalExecutor
from orchestrator.executor.outcome import Outcome
from orchestrator.executor.pool import Pool
from orchestrator.locations import home_expanded
from orchestrator.plan.chain import add_variant
from orchestrator.plan.graph import Graph, Variant
from orchestrator.plan.inputs import Files
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import make_exclusively, variant_names
from orchestrator.report.experiment import Run, VariantResult, write_experiment
from orchestrator.report.live import LiveView
from orchestrator.report.sweep import write_sweep
from orchestrator.report.table import markdown
from orchestrator.stages.catalogue import stage
from orchestrator.store.collection import touch
from orchestrator.store.files import write_durably
from orchestrator.store.store import Store, default_directory, explained

LOGGER = logging.getLogger("orchestrate")


@dataclass(kw_only=True)
class Options:
    """What the command line asks for besides the configuration."""

    rebuild: Collection[str] = ()
    quiet: bool = False
    verbose: bool = False
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
def planned(variants: Sequence[Composed], rebuild: Collection[str] = ()) -> Iterator[Planned]:
    """Plan *variants* as one graph; the store's session ends with the block.

    Raises:
        ConfigError, PlanError, StoreError: what a user can mend.
    """
    secrets = Secrets(environment(variant.config for variant in variants))
    configs = [typed(variant.config) for variant in variants]
    _refuse_differences(configs)
    store = Store(cache_directory(configs[0].cache))
    base = Path.cwd()
    try:
        scratch = store.begin()
        site = Site(files=Files(base, store.index), index=store.index)
        graph = _graph(variants, configs, site, secrets)
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


def _graph(
    variants: Sequence[Composed], configs: Sequence[Config], site: Site, secrets: Secrets
) -> Graph:
    graph = Graph()
    names = variant_names(
        [variant.overrides for variant in variants],
        [secrets.hide_text(config.model.name) for config in configs],
    )
    for index, (variant, config) in enumerate(zip(variants, configs, strict=True)):
        added = Variant(index=index, name=names[index], config=config, overrides=variant.overrides)
        add_variant(graph, added, site)
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

    def run(self, batch: Batch) -> list[VariantReturn]:
        """Plan and run one batch; write an experiment directory for each variant.

        Raises:
            ConfigError, PlanError, StoreError: before anything runs, or when the disk refuses.
        """
        started = time.time()
        with planned(batch.variants, self._options.rebuild) as plan:
            self._announce(batch, plan.secrets)
            directories = self._directories(batch, plan.graph)
            self._configure_logging(batch, directories)
            outcome = self._execute(plan)
            _hide_secrets(outcome, plan.secrets)
            touch(plan.store, [one.result.key for one in outcome.finished.values() if one.result])
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
                    run, variant, composed, statuses.of(variant), directories[variant.index]
                )
                for variant, composed in zip(plan.graph.variants, batch.variants, strict=True)
            ]
        self.results += found
        self._write_summary(batch, plan.secrets)
        self.warnings += outcome.warnings
        self.interrupted = self.interrupted or outcome.interrupted
        return [
            VariantReturn(
                passed=result.passed,
                value=result.summary.p50_ms,
                error=next(iter(result.failures), None),
                directory=result.directory,
                interrupted=result.interrupted,
            )
            for result in found
        ]

    def _announce(self, batch: Batch, secrets: Secrets) -> None:
        """Say why this is a sweep, and what its rules did."""
        if batch.matrix is None or not batch.first:
            return
        self.warnings += map(secrets.hide_text, batch.matrix.warnings())
        if not self._options.quiet:
            for line in batch.matrix.lines():
                self._console.print(secrets.hide_text(line), highlight=False, markup=False)

    def _write_summary(self, batch: Batch, secrets: Secrets) -> None:
        """Write the table, and of a sweep the combined manifest, of all variants so far."""
        if self.directory is None:
            return
        with explained(self.directory):
            summary = markdown([result.summary for result in self.results])
            write_durably(self.directory / "summary.md", summary.encode())
            if batch.sweep:
                write_sweep(
                    self.directory,
                    self.results,
                    started=self._started,
                    matrix=secrets.hide(batch.matrix.as_json()) if batch.matrix else None,
                    actions=self.counts,
                )

    def _execute(self, plan: Planned) -> Outcome:
        executor = plan.graph.variants[0].config.executor
        pool = Pool(plan.base, plan.scratch, plan.search_path)
        with LiveView(
            self._console,
            quiet=self._options.quiet,
            verbose=self._options.verbose,
            hide=plan.secrets.hide_text,
        ) as view:
            try:
                outcome = LocalExecutor(
                    plan.graph,
                    plan.store,
                    plan.resolver,
                    plan.observer,
                    plan.secrets,
                    pool,
                    view,
                    scratch=plan.scratch,
                    base=plan.base,
                    workers=executor.workers or _cores(),
                    timeout_s=executor.timeout_s,
                    rebuild=self._options.rebuild,
                    retries=executor.retries,
                    retry_failed=self._options.retry_failed,
                    fail_fast=self._options.fail_fast,
                ).run()
            finally:
                pool.stop()
            for status, count in view.counts.items():
                self.counts[status] = self.counts.get(status, 0) + count
        return outcome

    def _directories(self, batch: Batch, graph: Graph) -> list[Path]:
        if not batch.sweep:
            self.directory = make_exclusively(batch.directory)
            return [self.directory]
        self.directory = batch.directory.absolute()
        return [make_exclusively(batch.directory / variant.name) for variant in graph.variants]

    def _configure_logging(self, batch: Batch, directories: Sequence[Path]) -> None:
        """Configure logging as ``hydra.job_logging`` says, once for the run."""
        cfg = batch.hydra
        where = self.directory or directories[0]
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(where)
        with read_write(cfg.hydra.job), open_dict(cfg.hydra.job):
            cfg.hydra.job.name = "orchestrate"
        HydraConfig.instance().set_config(cfg)
        try:
            configure_log(cfg.hydra.job_logging, cfg.hydra.verbose)
        except (ValueError, TypeError, AttributeError, ImportError, KeyError, OSError) as exc:
            raise ConfigError(
                f"logging cannot be configured like this: {exc.__cause__ or exc}",
                where="hydra/job_logging",
                hint="leave it out, or mend it as logging.config.dictConfig wants it",
            ) from exc
        LOGGER.info("%d variants, one directory each below %s", len(directories), where)


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


def typed(cfg: DictConfig) -> Config:
    """Return the typed configuration of one composed variant.

    Raises:
        ConfigError: it is wrong.
    """
    HydraConfig.instance().set_config(cfg)
    return validate(cfg)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
