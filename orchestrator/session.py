"""One run: composed variants → typed configurations → one graph → executor → directories."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, open_dict, read_write
from rich.console import Console

from orchestrator.config.compose import Batch, Composed, VariantReturn
from orchestrator.config.purity import environment_names
from orchestrator.config.schema import Cache, Config
from orchestrator.config.validate import validate
from orchestrator.errors import ConfigError
from orchestrator.executor.local import LocalExecutor
from orchestrator.executor.outcome import Outcome
from orchestrator.executor.pool import Pool
from orchestrator.plan.chain import add_variant
from orchestrator.plan.graph import Graph, Variant
from orchestrator.plan.inputs import Files
from orchestrator.plan.observed import Observer
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.secrets import Secrets
from orchestrator.report.directories import make_exclusively, variant_names
from orchestrator.report.experiment import VariantResult, write_experiment
from orchestrator.report.live import LiveView
from orchestrator.report.table import markdown
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


@dataclass(kw_only=True)
class Planned:
    """A batch as one graph, and what is needed to resolve and run it."""

    graph: Graph
    store: Store
    resolver: Resolver
    secrets: Secrets
    scratch: Path
    base: Path
    search_path: list[str] = field(default_factory=list)


@contextmanager
def planned(variants: Sequence[Composed], rebuild: Collection[str] = ()) -> Iterator[Planned]:
    """Plan *variants* as one graph; the store's session ends with the block.

    Raises:
        ConfigError, PlanError, StoreError: what a user can mend.
    """
    configs = [typed(variant.config) for variant in variants]
    store = Store(cache_directory(configs[0].cache))
    base = Path.cwd()
    try:
        scratch = store.begin()
        secrets = Secrets(
            {
                name: os.environ.get(name, "")
                for variant in variants
                for name in environment_names(variant.config)
            }
        )
        files = Files(base, store.index)
        graph = Graph()
        names = variant_names(
            [variant.overrides for variant in variants], [config.model.name for config in configs]
        )
        for variant, config, name in zip(variants, configs, names, strict=True):
            add_variant(
                graph,
                Variant(
                    index=len(graph.variants), name=name, config=config, overrides=variant.overrides
                ),
                files,
            )
        search_path = [path for path in sys.path if path and Path(path) != base]
        observer = Observer(base, [str(base), *search_path], store.index)
        fresh = any(config.benchmark.fresh for config in configs)
        resolver = Resolver(store, observer, secrets, rebuild=rebuild, fresh_measurements=fresh)
        yield Planned(
            graph=graph,
            store=store,
            resolver=resolver,
            secrets=secrets,
            scratch=scratch,
            base=base,
            search_path=search_path,
        )
    finally:
        store.end()


class Session:
    """Runs batches and remembers their results for the table."""

    def __init__(self, console: Console, options: Options) -> None:
        self._console = console
        self._options = options
        self.results: list[VariantResult] = []
        self.warnings: list[str] = []
        self.counts: dict[str, int] = {}
        self.directory: Path | None = None
        self.interrupted = False

    def run(self, batch: Batch) -> list[VariantReturn]:
        """Plan and run one batch; write an experiment directory for each variant.

        Raises:
            ConfigError, PlanError, StoreError: before anything runs, or when the disk refuses.
        """
        started = time.time()
        with planned(batch.variants, self._options.rebuild) as plan:
            directories = self._directories(batch, plan.graph)
            self._configure_logging(batch, directories)
            outcome = self._execute(plan)
            touch(plan.store, [one.result.key for one in outcome.finished.values() if one.result])
            statuses = _Statuses(outcome)
            found = []
            for variant, composed in zip(plan.graph.variants, batch.variants, strict=True):
                found.append(
                    write_experiment(
                        variant,
                        composed,
                        outcome,
                        statuses.of(variant),
                        directories[variant.index],
                        plan.store,
                        plan.secrets,
                        started,
                    )
                )
        self.results += found
        if self.directory is not None:
            with explained(self.directory):
                summary = markdown([result.summary for result in self.results])
                write_durably(self.directory / "summary.md", summary.encode())
        self.warnings += outcome.warnings
        self.interrupted = self.interrupted or outcome.interrupted
        return [
            VariantReturn(
                passed=result.passed,
                value=result.summary.p50_ms,
                error=next(iter(result.failures), None),
                directory=result.directory,
            )
            for result in found
        ]

    def _execute(self, plan: Planned) -> Outcome:
        executor = plan.graph.variants[0].config.executor
        pool = Pool(plan.base, plan.scratch, plan.search_path)
        with LiveView(
            self._console, quiet=self._options.quiet, verbose=self._options.verbose
        ) as view:
            try:
                outcome = LocalExecutor(
                    plan.graph,
                    plan.store,
                    plan.resolver,
                    plan.secrets,
                    pool,
                    view,
                    scratch=plan.scratch,
                    base=plan.base,
                    workers=executor.workers or _cores(),
                    timeout_s=executor.timeout_s,
                    rebuild=self._options.rebuild,
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
        configure_log(cfg.hydra.job_logging, cfg.hydra.verbose)
        LOGGER.info("%d variants, one directory each below %s", len(directories), where)


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
    """Return the directory of the store that a configuration names."""
    return Path(cache.dir).expanduser() if cache.dir else default_directory()


def typed(cfg: DictConfig) -> Config:
    """Return the typed configuration of one composed variant.

    Raises:
        ConfigError: it is wrong.
    """
    HydraConfig.instance().set_config(cfg)
    config = validate(cfg)
    if config.toolchain.command is not None:
        raise ConfigError(
            f"target.backend={config.target.backend} runs in this interpreter",
            where="toolchain.command",
            hint="leave it null",
        )
    return config


def _cores() -> int:
    return len(os.sched_getaffinity(0))
