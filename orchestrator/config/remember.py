"""Makes what ``orchestrator.config.remembered`` recalls, from what Hydra has just composed."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.batch import Batch, Composed, Settled
from orchestrator.config.composition import Composition
from orchestrator.config.recording import Recording, RecordingComposer
from orchestrator.config.remembered import HERE, MARK, SAVED, Request, encoded
from orchestrator.config.schema import Config
from orchestrator.config.seen import kind
from orchestrator.config.surroundings import surroundings
from orchestrator.config.typed import (
    folder_of,
    logging_of,
    place,
    saved_texts,
    sources_of,
    verbose_of,
)
from orchestrator.errors import ConfigError
from orchestrator.locations import bundled
from orchestrator.store import digests
from orchestrator.store.index import Index

#: How long a composition is remembered: some command lines are never given again.
_KEPT_S: Final = 90 * 86400.0
_NO_JSON: Final = (ValueError, TypeError, AttributeError, KeyError)
_OURS: Final = "hydra_plugins.orchestrate."
#: Hydra's own sources: its files, and what code has registered.
_HYDRAS: Final = (("pkg", "hydra.conf"), ("structured", ""))
#: Decide the variants; resolved for good, so that nothing in them may change by itself.
_DECIDING: Final = ("sweeper", "launcher", "callbacks", "mode", "output_subdir", "verbose")
_BLOCK: Final = re.compile(r"^(?= {0,2}[^\s-])", re.MULTILINE)


def remember(
    request: Request,
    composer: RecordingComposer,
    batch: Batch,
    composed: Composition,
    index: Index,
) -> str:
    """Remember a composed *batch* for :func:`recall`; the composer stops watching.

    Call it before anything changes the batch, such as the run's directory in it.

    Args:
        request: What was asked for, as it was before the composer began.
        composer: What composed the batch, the only one of its run.
        batch: All variants.
        composed: What comes of it.
        index: Where it is kept.

    Returns:
        Why it cannot be remembered; empty when it was.
    """
    recording = composer.recording
    try:
        _doubt_plugins(recording)
        _doubt_sources(recording, batch)
        _doubt_sweep(recording, batch)
        for folder in request.folders:  # an empty one is asked for nothing, but must be there
            recording.seen.kinds.setdefault(folder, kind(folder))
        content = None if recording.doubts else _content(recording, batch, composed)
    except (ConfigError, OmegaConfBaseException, *_NO_JSON) as exc:
        recording.doubt(f"a part of the hydra section does not resolve ({type(exc).__name__})")
        content = None
    finally:
        composer.stop()
    if content is None or recording.doubts:
        return recording.doubts[0]
    content |= _plugins(request)
    text = encoded(request, sorted({*recording.variables, *content["named"]}), content)
    if text is None:
        return "values of environment variables cannot be told apart in it"
    index.set(request.key, text, keep_s=_KEPT_S)
    return ""


def _doubt_plugins(recording: Recording) -> None:
    for plugin_type in (SearchPathPlugin, ConfigSource):
        for plugin in Plugins.instance().discover(plugin_type):
            if not plugin.__module__.startswith("hydra._internal."):
                recording.doubt(f"what the plugin {plugin.__name__} does depends on its own code")


def _doubt_sources(recording: Recording, batch: Batch) -> None:
    found = {source for one in batch.variants for source in _sources(one)}
    for schema, path in sorted({*found, *sources_of(batch.hydra)}):
        if schema != "file" and (schema, path) not in _HYDRAS:
            recording.doubt(f"the search path has {schema}://{path}")


def _sources(one: Composed | Settled) -> list[tuple[str, str]]:
    return one.sources if isinstance(one, Settled) else sources_of(one.config)


def _doubt_sweep(recording: Recording, batch: Batch) -> None:
    hydra = batch.hydra.hydra
    if hydra.callbacks:
        recording.doubt("hydra.callbacks are called with what Hydra composes")
    if not batch.sweep:
        return
    for name in ("sweeper", "launcher"):
        if not str(hydra[name]._target_).startswith(_OURS):
            recording.doubt(f"hydra/{name} is another one than ours")
    if hydra.sweeper.get("max_batch_size") is not None:
        recording.doubt("hydra.sweeper.max_batch_size makes several batches")


def _content(recording: Recording, batch: Batch, composed: Composition) -> dict[str, Any] | None:
    with recording.strict():
        for one in batch.variants:
            if isinstance(one, Composed):  # settled ones were resolved strictly
                for root in one.config:
                    if root != "hydra":
                        _plain(one.config, str(root))
        for name in _DECIDING:
            _plain(batch.hydra.hydra, name)
    if recording.doubts:
        return None
    with _as_current(batch.hydra):
        in_place = _in_place(batch)
        found = {
            "directory": _directory(recording, batch),
            "logging": _logging(recording, in_place),
            "multirun": OmegaConf.to_yaml(_before(batch)) if batch.sweep else "",
        }
    told = composed.announcement
    return {
        **found,
        **_variants(recording, batch, composed, in_place),
        "sweep": batch.sweep,
        "named": list(composed.environment),
        "announcement": asdict(told) if told else None,
        "verbose": verbose_of(batch.hydra),
        "seen": recording.seen.as_json(),
    }


def _variants(
    recording: Recording, batch: Batch, composed: Composition, in_place: DictConfig
) -> dict[str, Any]:
    """Return all variants, each distinct group and each distinct block of YAML once."""
    blocks, values = _Table(), _Table()
    variants = []
    for one, point in zip(batch.variants, composed.points, strict=True):
        saved = one.texts if isinstance(one, Settled) else saved_texts(in_place, one.overrides)
        texts = [saved[name] for name in SAVED]
        if "".join(texts).count(MARK) != (0 if batch.sweep else 1):  # a single run's directory
            recording.doubt("a configuration has a text that marks something here")
        groups = point.config.model_dump(mode="json")
        variants.append(
            {
                "index": point.index,
                "name": point.name,
                "overrides": list(point.overrides),
                "folder": folder_of(one),
                "config": [values.add(group) for group in groups.values()],
                "texts": [[blocks.add(block) for block in _BLOCK.split(text)] for text in texts],
            }
        )
    return {
        "variants": variants,
        "groups": list(Config.model_fields),
        "values": values.items,
        "blocks": blocks.items,
    }


class _Table:
    """JSON values, each once: hundreds of variants differ in a few."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """Return the place of *value* among the items."""
        place = self._places.setdefault(digests.canonical(value), len(self.items))
        if place == len(self.items):
            self.items.append(value)
        return place


def _plugins(request: Request) -> dict[str, Any]:
    """Return folders of plugins that an import hook added, and the surroundings with them."""
    namespace = importlib.import_module("hydra_plugins")  # the composer has put it in reach
    own = str(bundled("plugins"))
    derived = {f"{folder}/hydra_plugins" for folder in (*request.path, own)}
    further = sorted(set(map(str, namespace.__path__)) - derived)
    return {
        "plugins": further,
        "around": surroundings(request.path, further) if further else request.around,
    }


def _before(batch: Batch) -> DictConfig:
    """Return the sweep's configuration as its sweeper saves it, its directory marked."""
    cfg = copy.deepcopy(batch.hydra)
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.sweep.dir = HERE
    return cfg


def _in_place(batch: Batch) -> DictConfig:
    """Return the run's configuration as it is once its directory, here marked, is made."""
    cfg = _before(batch) if batch.sweep else copy.deepcopy(batch.hydra)
    place(cfg, HERE)
    return cfg


def _directory(recording: Recording, batch: Batch) -> str:
    cfg = copy.deepcopy(batch.hydra)
    if batch.sweep:
        with read_write(cfg.hydra), open_dict(cfg.hydra):
            cfg.hydra.sweep.dir = recording.sweep_directory
    with recording.marking(), _as_current(cfg):
        return str(OmegaConf.select(cfg, "hydra.sweep.dir" if batch.sweep else "hydra.run.dir"))


def _logging(recording: Recording, in_place: DictConfig) -> dict[str, Any]:
    with recording.marking(), _as_current(in_place):
        found = logging_of(in_place)
    digests.canonical(found)  # a TypeError or ValueError for what is no JSON
    return found


def _plain(cfg: DictConfig, name: str) -> Any:
    found = OmegaConf.select(cfg, name)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


@contextmanager
def _as_current(cfg: DictConfig) -> Iterator[None]:
    """Let ``${hydra:...}`` mean *cfg*."""
    instance = HydraConfig.instance()
    before: Any = instance.cfg
    instance.set_config(cfg)
    try:
        yield
    finally:
        instance.cfg = before
