"""Watches Hydra compose: which files, folders and variables it asks, which resolvers it calls.

Everything is watched where it happens, because the composed configuration does not show it: a
variable may be named in a defaults list only, or its name may be computed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser import types as parsed
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from orchestrator.config.compose import Composer
from orchestrator.config.purity import PURE
from orchestrator.config.remembered import MARK, hiding, now_mark
from orchestrator.config.seen import Seen, content, kind, listing

#: ``${python_version:}`` is the same for the same Python, which is remembered too.
_SAME: Final = PURE | {"python_version"}
_HYDRAS: Final = f"{FileConfigSource.__module__}.{FileConfigSource.__name__}"
#: Who registers nodes that change with Hydra's version or our code only.
_KNOWN: Final = ("hydra", "orchestrate")


class Recording:
    """What one :class:`RecordingComposer` has seen.

    Attributes:
        seen: What configuration folders answered.
        variables: Names of environment variables that ``oc.env`` was asked for.
        doubts: Why the composition cannot be remembered, in words; empty when it can.
        sweep_directory: ``hydra.sweep.dir`` of the last multirun composed, as it is written.
    """

    def __init__(self) -> None:
        self.seen = Seen()
        self.variables: set[str] = set()
        self.doubts: list[str] = []
        self.sweep_directory = ""
        self._strict = False
        self._marking = False
        self._merging = False

    @contextmanager
    def strict(self) -> Iterator[None]:
        """What is resolved inside must be the same next time."""
        before, self._strict = self._strict, True
        try:
            yield
        finally:
            self._strict = before

    @contextmanager
    def marking(self) -> Iterator[None]:
        """As :meth:`strict`, but ``${now:}`` gives a mark, which a later run replaces."""
        before, self._marking = self._marking, True
        try:
            with self.strict():
                yield
        finally:
            self._marking = before

    @contextmanager
    def merging(self) -> Iterator[None]:
        """OmegaConf resolves what another file overrides, to see whether it is a section."""
        before, self._merging = self._merging, True
        try:
            yield
        finally:
            self._merging = before

    def watched(self, name: str, resolver: Callable[..., Any]) -> Callable[..., Any]:
        """Return OmegaConf's *resolver*, whose calls are noted."""

        def call(
            config: Any, parent: Any, node: Any, args: tuple[Any, ...], args_str: tuple[str, ...]
        ) -> Any:
            if any(MARK in str(arg) for arg in args):
                self.doubt(f"${{{name}:...}} takes what ${{now:...}} gives")
            elif name == "oc.env" and args:
                self.variables.add(str(args[0]))
            marked = name == "now" and self._marking and len(args) == 1
            if marked:
                found: Any = now_mark(str(args[0]))
            else:
                found = resolver(config, parent, node, args, args_str)
            if self._takes_apart(args[:1] if name == "oc.env" else args, found):
                self.doubt(f"${{{name}:...}} makes something of a variable's value")
            if name not in _SAME and not marked and self._matters(name, found):
                self.doubt(f"${{{name}:...}} may give another value next time")
            return found

        return call

    def _matters(self, name: str, found: Any) -> bool:
        if self._merging:
            return OmegaConf.is_config(found)
        return self._strict and not (name == "hydra" and self._marking)

    def _takes_apart(self, args: tuple[Any, ...], found: Any) -> bool:
        """Whether *found* may say something of a variable's value, which could not be hidden."""
        if isinstance(found, bool) or found is None or any(found is arg for arg in args):
            return False
        hidden = hiding(sorted(self.variables))
        texts = [f"{arg}\n" for arg in args]  # no value is a whole text: short ones are no secrets
        return any(hidden.hide_text(text) != text for text in texts)

    def doubt(self, reason: str) -> None:
        """Note why this cannot be remembered."""
        if reason not in self.doubts:
            self.doubts.append(reason)


class RecordingComposer(Composer):
    """A :class:`Composer` that watches itself from ``with`` to :meth:`stop`."""

    def __init__(
        self, config_directory: Path | None = None, config_name: str | None = None
    ) -> None:
        super().__init__(config_directory, config_name)
        self.recording = Recording()
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> RecordingComposer:
        self._watch_warnings()
        try:
            super().__enter__()
            self._watch_files()
            self._watch_nodes()
            self._watch_shuffling()
            self._watch_resolvers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        super().__exit__(*exc)

    def stop(self) -> None:
        """Stop watching; safe to call twice."""
        while self._undo:
            self._undo.pop()()

    def _watch_files(self) -> None:
        types = SourcesRegistry.instance().types
        before = types["file"]
        # By name: Hydra's plugin scanner runs the module a second time.
        if f"{before.__module__}.{before.__name__}" != _HYDRAS:
            self.recording.doubt("a plugin reads configuration files in its own way")
            return
        types["file"] = _watched_source(self.recording.seen)
        self._undo.append(lambda: types.__setitem__("file", before))
        path = self._hydra.config_loader.get_search_path()
        self._hydra.config_loader = _Loader(path, self.recording)

    def _watch_nodes(self) -> None:
        store = ConfigStore.instance()
        load = store.load

        def watched(config_path: str) -> ConfigNode:
            found = load(config_path)
            if found.provider not in _KNOWN:
                self.recording.doubt(f"{config_path} is registered by code, which may change")
            return found

        vars(store)["load"] = watched
        self._undo.append(lambda: vars(store).pop("load"))

    def _watch_shuffling(self) -> None:
        shuffle = vars(parsed)["shuffle"]

        def watched(values: list[Any]) -> None:
            self.recording.doubt("shuffle(...) gives another order next time")
            shuffle(values)

        vars(parsed)["shuffle"] = watched
        self._undo.append(lambda: vars(parsed).__setitem__("shuffle", shuffle))

    def _watch_resolvers(self) -> None:
        known = BaseContainer._resolvers  # OmegaConf has no public list of them
        BaseContainer._resolvers = {
            name: self.recording.watched(name, resolver) for name, resolver in known.items()
        }
        self._undo.append(lambda: setattr(BaseContainer, "_resolvers", known))

    def _watch_warnings(self) -> None:
        shown = warnings.showwarning

        def show(*args: Any, **more: Any) -> None:
            self.recording.doubt("a warning was shown, which would be missing next time")
            shown(*args, **more)

        warnings.showwarning = show
        self._undo.append(lambda: setattr(warnings, "showwarning", shown))


class _Loader(ConfigLoaderImpl):
    """Hydra's loader; what resolves while it composes must be the same next time."""

    def __init__(self, path: Any, recording: Recording) -> None:
        super().__init__(path)
        self._recording = recording

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        with self._recording.strict():
            found = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        if run_mode is RunMode.MULTIRUN:
            sweep = OmegaConf.to_container(found.hydra.sweep, resolve=False)
            self._recording.sweep_directory = str(sweep["dir"]) if isinstance(sweep, dict) else ""
        return found

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        with self._recording.merging():
            return super()._compose_config_from_defaults_list(defaults, repo)

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: Sequence[str | Override] | None = None,
    ) -> list[str]:
        with self._recording.strict():
            more: Any = {} if overrides is None else {"overrides": overrides}
            return super().get_group_options(group_name, results_filter, config_name, **more)


def _watched_source(seen: Seen) -> type[ConfigSource]:
    """Return Hydra's source of files, whose answers are noted in *seen*."""

    class WatchedFileConfigSource(FileConfigSource):
        def load_config(self, config_path: str) -> ConfigResult:
            path = self._place(self._normalize_file_name(config_path))
            before = content(path)
            found = super().load_config(config_path)
            # A file that was written meanwhile is noted as what no file is: it never holds.
            seen.contents[path] = before if content(path) == before else "changed"
            return found

        def is_group(self, config_path: str) -> bool:
            path = self._place(config_path)
            return self._noted(path, kind(path), super().is_group(config_path), "folder")

        def is_config(self, config_path: str) -> bool:
            path = self._place(self._normalize_file_name(config_path))
            return self._noted(path, kind(path), super().is_config(config_path), "file")

        def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
            path = self._place(config_path)
            seen.listings[path] = listing(path)
            return super().list(config_path, results_filter)

        def _place(self, config_path: str) -> str:
            return os.path.join(os.getcwd(), self.path, config_path)  # noqa: PTH109, PTH118

        def _noted(self, path: str, found: str, answer: bool, wanted: str) -> bool:
            agrees = (found == wanted) == answer and seen.kinds.get(path, found) == found
            seen.kinds[path] = found if agrees else "changed"
            return answer

    return WatchedFileConfigSource
