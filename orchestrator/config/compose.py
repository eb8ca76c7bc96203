"""Composes variants with Hydra: search path, run mode, callbacks, job logging.

Hydra's own ``main`` would catch and print errors, make directories that two runs in one second
share, and run one job at a time. So its parts are called here: a single run is a batch of one, and
a multirun reaches :class:`BatchTask` through our launcher plugin with all its variants at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from orchestrator.config.batch import Batch, BatchTask, Composed, VariantReturn
from orchestrator.config.hydra_errors import COMPOSITION_ERRORS, translate, undecodable, unusable
from orchestrator.config.matrix import check_keys, declares_matrix
from orchestrator.config.origin import task_overrides
from orchestrator.config.searching import told
from orchestrator.config.validate import PRIMARY
from orchestrator.errors import ConfigError
from orchestrator.locations import bundled

# What Hydra's own hydra/output/default.yaml says (1.3).
_HYDRAS_SUBDIR: Final = "${hydra.job.num}"
LAUNCHER: Final = "hydra_plugins.orchestrate.launcher.OrchestrateLauncher"


def refuse_foreign(cfg: DictConfig) -> None:
    """Refuse another launcher than ours in a composed multirun; sweepers may be others.

    Raises:
        ConfigError: there is one.
    """
    if str(OmegaConf.select(cfg, "hydra.launcher._target_") or "") == LAUNCHER:
        return
    chosen = [str(text) for text in OmegaConf.select(cfg, "hydra.overrides.hydra") or []]
    if any(text.startswith("hydra/launcher=") for text in chosen):
        hint = "leave out the override hydra/launcher; workers are set by executor.workers"
    else:
        hint = (
            "a primary configuration of your own needs these lines in its defaults list: "
            "'- override hydra/launcher: orchestrate' and '- override hydra/sweeper: orchestrate'"
        )
    raise ConfigError(
        "another launcher than ours runs variants one by one, without a shared graph",
        where="hydra/launcher",
        hint=hint,
    )


@contextmanager
def composing(loader: ConfigLoader, overrides: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise while they compose into our errors.

    Raises:
        ConfigError: the configuration does not compose.
    """
    try:
        yield
    except COMPOSITION_ERRORS as exc:
        raise translate(exc, overrides) from exc
    except UnicodeDecodeError as exc:
        entries = [entry.path or "" for entry in loader.get_search_path().get_path()]
        folders = [Path(path.removeprefix("file://")) for path in entries]
        raise undecodable([folder for folder in folders if folder.is_absolute()], exc) from exc
    except ValueError as exc:
        raise unusable(exc, overrides) from exc


class Composer:
    """Hydra with our search path; use it as a context manager, once."""

    def __init__(
        self, config_directory: Path | None = None, config_name: str | None = None
    ) -> None:
        self._directory = config_directory
        self._name = config_name or PRIMARY

    def __enter__(self) -> Composer:
        _register_plugins()
        GlobalHydra.instance().clear()
        setbase("1.3")
        self._hydra = Hydra.create_main_hydra2("orchestrate", self._search_path())
        return self

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()

    def run(
        self, overrides: Sequence[str], task: BatchTask, *, multirun: bool
    ) -> list[VariantReturn]:
        """Compose the variants and hand them to *task*.

        Raises:
            ConfigError: the configuration does not compose.
            OrchestrateError: whatever *task* raises.
        """
        nameless = [text for text in overrides if text.lstrip("+~").startswith("=")]
        if nameless:
            raise ConfigError("an override is key=value", where=f"override '{nameless[0]}'")
        try:
            single = self._compose(overrides, multirun=multirun)
            if single is None:
                self._sweep(overrides, task, declared=not multirun)
            else:
                self._single(single, task)
        except COMPOSITION_ERRORS as exc:
            raise translate(exc, overrides) from exc
        return task.returns

    def primary(self) -> DictConfig:
        """Return the configuration without any override.

        Raises:
            ConfigError: it does not compose.
        """
        try:
            found = self._compose((), multirun=False)
        except COMPOSITION_ERRORS as exc:
            raise translate(exc, ()) from exc
        if found is None:
            raise ConfigError("the primary configuration is a sweep", where=self._name)
        return found

    def show(self, overrides: Sequence[str], kind: str, package: str | None, resolve: bool) -> None:
        """Print the composed configuration (``--cfg job|hydra|all``)."""
        with composing(self._hydra.config_loader, overrides):
            self._hydra.show_cfg(self._name, list(overrides), kind, package, resolve)

    def info(self, topic: str, overrides: Sequence[str]) -> None:
        """Print Hydra's information (``--info all|config|defaults|...``)."""
        with composing(self._hydra.config_loader, overrides):
            self._hydra.show_info(topic, config_name=self._name, overrides=list(overrides))

    def completion(self, overrides: Sequence[str]) -> None:
        """Answer a shell's query, or print what installs completion."""
        self._hydra.shell_completion(config_name=self._name, overrides=list(overrides))

    def _compose(self, overrides: Sequence[str], *, multirun: bool) -> DictConfig | None:
        """Return the one configuration, or None when a sweep is asked for."""
        if multirun:
            return None
        cfg = self._composed(overrides, RunMode.RUN)
        # Plain Hydra ignores an experiment's own matrix without -m, and exits with 0.
        if cfg.hydra.mode == RunMode.MULTIRUN or declares_matrix(cfg):
            return None
        if any(_sweeps(text) for text in overrides):
            raise ConfigError(
                "several values are a sweep", where=_first_sweep(overrides), hint="add -m"
            )
        return cfg

    def _composed(self, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        with composing(self._hydra.config_loader, overrides):
            cfg = self._hydra.compose_config(
                config_name=self._name,
                overrides=list(overrides),
                run_mode=mode,
                with_log_configuration=False,
                validate_sweep_overrides=mode is not RunMode.RUN,
            )
        check_keys(cfg)
        return cfg

    def _single(self, cfg: DictConfig, task: BatchTask) -> None:
        with open_dict(cfg.hydra):
            cfg.hydra.mode = RunMode.RUN
        callbacks = Callbacks(cfg)
        callbacks.on_run_start(config=cfg, config_name=self._name)
        HydraConfig.instance().set_config(cfg)
        directory = Path(str(OmegaConf.select(cfg, "hydra.run.dir")))
        overrides = task_overrides(cfg)
        batch = Batch(
            variants=[Composed(index=0, config=cfg, overrides=overrides)],
            sweep=False,
            directory=directory,
            hydra=cfg,
        )
        returns = run_with_callbacks(batch, task, callbacks)
        callbacks.on_run_end(config=cfg, config_name=self._name, job_return=returns[0])

    def _sweep(self, overrides: Sequence[str], task: BatchTask, *, declared: bool) -> None:
        """As ``Hydra.multirun``, but another launcher is refused before anything is made."""
        cfg = self._composed(overrides, RunMode.MULTIRUN)
        refuse_foreign(cfg)
        task.declared = declared and declares_matrix(cfg)
        callbacks = Callbacks(cfg)
        callbacks.on_multirun_start(config=cfg, config_name=self._name)
        context = HydraContext(config_loader=self._hydra.config_loader, callbacks=callbacks)
        with told(cfg, task):
            sweeper = Plugins.instance().instantiate_sweeper(
                config=cfg, hydra_context=context, task_function=task
            )
            sweeper.sweep(arguments=task_overrides(cfg))
        callbacks.on_multirun_end(config=cfg, config_name=self._name)

    def _search_path(self) -> Any:
        own = bundled("conf")
        path = create_config_search_path(str(own))
        user = Path.cwd() / "conf"
        if user.is_dir() and user.resolve() != own.resolve():
            path.prepend(provider="user", path=f"file://{user}", anchor="main")
        if self._directory is not None:
            directory = self._directory.absolute()
            if not directory.is_dir():
                raise ConfigError(f"no such directory: {directory}", where="--config-dir")
            path.prepend(provider="command-line", path=f"file://{directory}", anchor=None)
        return path


def _register_plugins() -> None:
    """Make our launcher and sweeper known to Hydra.

    Hydra looks for plugins once in a process, which may have been before this folder was on the
    path, so they are registered here.
    """
    folder = str(bundled("plugins"))
    if folder not in sys.path:
        sys.path.append(folder)  # the hydra_plugins namespace
    for name in ("launcher", "sweeper"):
        module = importlib.import_module(f"hydra_plugins.orchestrate.{name}")
        module.register()
        plugin = getattr(module, f"Orchestrate{name.capitalize()}")
        if f"{plugin.__module__}.{plugin.__name__}" not in Plugins.instance().class_name_to_class:
            Plugins.instance().register(plugin)


def run_with_callbacks(batch: Batch, task: BatchTask, callbacks: Callbacks) -> list[JobReturn]:
    """Run a batch between Hydra's job callbacks; a failed variant is a value, no exception."""
    for variant in batch.variants:
        if isinstance(variant, Composed):
            refuse_unsupported(variant.config)
            callbacks.on_job_start(config=variant.config, task_function=task)
    returns = []
    for variant, given in zip(batch.variants, task.launch(batch), strict=True):
        job = JobReturn()
        job.overrides = variant.overrides
        if isinstance(variant, Composed):
            job.cfg = without_hydra(variant.config)
            job.hydra_cfg = variant.config
        job.working_dir = str(given.directory or Path.cwd())
        job.task_name = "orchestrate"
        job.status = JobStatus.COMPLETED
        job.return_value = given
        if isinstance(variant, Composed):
            callbacks.on_job_end(config=variant.config, job_return=job)
        returns.append(job)
    return returns


def refuse_unsupported(cfg: DictConfig) -> None:
    """Refuse what Hydra would do for each job in a process of its own.

    Raises:
        ConfigError: the composed configuration asks for it.
    """
    job = cfg.hydra.job
    if job.env_set:
        raise ConfigError(
            f"sets {', '.join(job.env_set)}, but all variants share one process and its results",
            where="hydra.job.env_set",
            hint="set the variable in the shell that starts orchestrate",
        )
    if job.chdir:
        raise ConfigError(
            "every action has a directory of its own, so there is no job directory to change to",
            where="hydra.job.chdir",
            hint="leave it out; artifacts and logs are linked into the experiment directory",
        )
    if not cfg.hydra.output_subdir:
        raise ConfigError(
            "an experiment directory always keeps its configuration, which packages need",
            where="hydra.output_subdir",
            hint="leave it out, or give the name of a folder",
        )
    if Path(str(cfg.hydra.output_subdir)).name != str(cfg.hydra.output_subdir):
        raise ConfigError(
            f"'{cfg.hydra.output_subdir}' is no plain name",
            where="hydra.output_subdir",
            hint="give the name of one folder, such as .hydra",
        )
    sweep = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    if isinstance(sweep, dict) and sweep.get("subdir") != _HYDRAS_SUBDIR:
        raise ConfigError(
            "the directories of a sweep are named by the overrides in which its variants differ",
            where="hydra.sweep.subdir",
            hint="leave it out; hydra.sweep.dir is yours to set",
        )


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a copy of a composed configuration without its ``hydra`` section."""
    copy = cfg.copy()
    with read_write(copy), open_dict(copy):
        del copy["hydra"]
    return copy


def _first_sweep(overrides: Sequence[str]) -> str:
    return next(text for text in overrides if _sweeps(text))


def _sweeps(text: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return bool(OverridesParser.create().parse_override(text).is_sweep_override())
