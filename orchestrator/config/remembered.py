"""Compositions remembered, so that a run in which nothing changed imports no Hydra.

Only the standard library and the index are needed to recall one; ``orchestrator.config.remember``
makes them. What is remembered is JSON, with values of environment variables hidden.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from orchestrator.config.seen import Seen
from orchestrator.config.surroundings import module_path, surroundings
from orchestrator.locations import bundled
from orchestrator.plan.secrets import Secrets
from orchestrator.store import digests
from orchestrator.store.index import Index

FORMAT: Final = 1
_PLAIN: Final = re.compile(r"/[\w./=+,-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, and where: two equal ones compose alike while nothing they read changes.

    Attributes:
        folders: The configuration folders that come first to last.
        path: Where Python modules are looked for.
        around: The digest of :func:`surroundings` when the request was made.
    """

    overrides: tuple[str, ...]
    multirun: bool
    config_name: str | None
    here: str
    folders: tuple[str, ...]
    path: tuple[str, ...]
    around: str

    @classmethod
    def of(
        cls,
        overrides: Sequence[str] = (),
        *,
        multirun: bool = False,
        config_dir: str | Path | None = None,
        config_name: str | None = None,
    ) -> Request:
        """Return the request of ``orchestrate [-m] OVERRIDES [-cd DIR] [-cn NAME]`` made here.

        Make it before Hydra composes: that lengthens ``sys.path``.

        Raises:
            OSError: the current directory is gone, or our own files cannot be read.
        """
        path = module_path()
        return cls(
            overrides=tuple(overrides),
            multirun=multirun,
            config_name=config_name,
            here=str(Path.cwd()),
            folders=config_folders(config_dir),
            path=path,
            around=surroundings(path),
        )

    @property
    def key(self) -> str:
        """Under which the index has the composition: one entry for each request."""
        asked = [self.overrides, self.multirun, self.config_name, self.here, self.folders]
        return f"composition:{digests.of_json('request', [*asked, self.path])}"


def config_folders(config_dir: str | Path | None) -> tuple[str, ...]:
    """Return the folders of the search path, as :class:`Composer` orders them."""
    own, user = bundled("conf"), Path.cwd() / "conf"
    first = [str(Path(config_dir).absolute())] if config_dir is not None else []
    mine = [str(user)] if user.is_dir() and user.resolve() != own.resolve() else []
    return (*first, *mine, str(own))


@dataclass(frozen=True, kw_only=True)
class RememberedVariant:
    """One variant of a remembered composition.

    Attributes:
        index: Its place in the sweep, from 0.
        name: Of its directory below the sweep's (see ``variant_names``).
        overrides: As Hydra gave them.
        config: ``Config.model_dump(mode="json")``. Variants share its values: do not change them.
    """

    index: int
    name: str
    overrides: list[str]
    config: dict[str, Any]
    _texts: tuple[str, str, str] = field(repr=False)

    def saved(self, directory: Path) -> dict[str, str]:
        """Return what Hydra saves for this variant: file name below ``.hydra`` → YAML text.

        Args:
            directory: The variant's experiment directory, absolute.
        """
        names = ("config.yaml", "hydra.yaml", "overrides.yaml")
        return dict(zip(names, (_placed(one, directory) for one in self._texts), strict=True))


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """A composition as it would be composed now.

    Attributes:
        sweep: A multirun; a single run otherwise.
        output_subdir: The folder in each experiment directory for what Hydra saves.
        environment: The variables that the configurations name, with their values, for
            :class:`Secrets`; in the order of ``purity.environment``.
        extra: As given to :func:`remember`.
        when: What ``${now:}`` means.
        verbose: ``hydra.verbose``.
    """

    sweep: bool
    variants: list[RememberedVariant]
    output_subdir: str
    environment: dict[str, str]
    extra: dict[str, Any]
    when: datetime
    verbose: bool | str | list[str]
    _directory: str = field(repr=False)
    _multirun: str = field(repr=False)
    _logging: dict[str, Any] | None = field(repr=False)

    @cached_property
    def directory(self) -> Path:
        """``hydra.run.dir``, of a sweep ``hydra.sweep.dir``: not made, perhaps relative."""
        return Path(_dated(self._directory, self.when))

    def multirun_yaml(self, directory: Path) -> str:
        """Return what Hydra saves as ``multirun.yaml`` in a sweep's directory (absolute)."""
        return _placed(self._multirun, directory)

    def logging(self, directory: Path) -> dict[str, Any] | None:
        """Return the configuration for ``logging.config.dictConfig``; None: leave logging alone.

        Args:
            directory: The run's or the sweep's directory, absolute.
        """
        found: dict[str, Any] | None = _replaced(self._logging, directory, self.when)
        return found


def recall(request: Request, index: Index) -> Remembered | None:
    """Return the remembered composition of *request*, or None when it has to be composed.

    None is returned unless everything that was read to compose it is as it was: files, the absence
    of files, listings, environment variables, and :func:`surroundings`. A damaged entry is None.
    """
    text = index.get(request.key)
    if text is None:
        return None
    digest, _, body = text.partition("\n")
    if digests.of_bytes(body.encode()) != digest:
        return None
    try:
        return _recalled(json.loads(body), request)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None  # written by another version


def variables(names: Sequence[str]) -> dict[str, str]:
    """Return a digest of each variable's value; an empty text for one that is not set."""
    values = {name: os.environ.get(name) for name in sorted(names)}
    return {
        name: "" if value is None else digests.of_bytes(os.fsencode(value))
        for name, value in values.items()
    }


def hiding(names: Sequence[str]) -> Secrets:
    """Return what hides the values of the variables *names*."""
    return Secrets({name: os.environ.get(name, "") for name in names})


def encoded(request: Request, names: Sequence[str], content: Mapping[str, Any]) -> str | None:
    """Return the text under which *content* (JSON) is kept; None when it cannot be hidden.

    Args:
        request: What it was composed for.
        names: All environment variables that were read, whose values are hidden.
        content: As :func:`orchestrator.config.remember.remember` makes it.
    """
    secrets = hiding(names)
    hidden = secrets.hide(content)
    # Marks may hide parts of each other when one value is part of another's mark.
    if secrets.reveal(hidden) != content:
        return None
    body = json.dumps(
        {
            "format": FORMAT,
            "around": request.around,
            "variables": variables(names),
            "content": hidden,
        }
    )
    return f"{digests.of_bytes(body.encode())}\n{body}"


def _recalled(entry: Any, request: Request) -> Remembered | None:
    if entry["format"] != FORMAT or entry["around"] != request.around:
        return None
    names = list(entry["variables"])
    if variables(names) != entry["variables"]:
        return None
    content = hiding(names).reveal(entry["content"])
    further = content["plugins"]
    if further and surroundings(request.path, further) != content["around"]:
        return None
    if not Seen.from_json(content["seen"]).holds():
        return None
    return _decoded(content)


def _decoded(content: Mapping[str, Any]) -> Remembered:
    blocks, groups, names = content["blocks"], content["values"], content["groups"]
    texts = [
        ["".join(blocks[i] for i in text) for text in one["texts"]] for one in content["variants"]
    ]
    variants = [
        RememberedVariant(
            index=one["index"],
            name=one["name"],
            overrides=one["overrides"],
            config={name: groups[i] for name, i in zip(names, one["config"], strict=True)},
            _texts=(found[0], found[1], found[2]),
        )
        for one, found in zip(content["variants"], texts, strict=True)
    ]
    values = {name: os.environ.get(name, "") for name in content["named"]}
    return Remembered(
        sweep=content["sweep"],
        variants=variants,
        output_subdir=content["output_subdir"],
        environment=dict(sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))),
        extra=content["extra"],
        when=datetime.now(),  # local time, as Hydra's ${now:}
        verbose=content["verbose"],
        _directory=content["directory"],
        _multirun=content["multirun"],
        _logging=content["logging"],
    )


# What only a run knows stands in the texts as a mark. A text of a user's that has one by itself is
# not remembered (see remember()).
MARK: Final = "orchestrate0mark0"
HERE: Final = f"{MARK}here0"
_NOW: Final = re.compile(rf"{MARK}now0([0-9a-f]*)0")


def now_mark(pattern: str) -> str:
    """Return what stands for ``${now:PATTERN}``."""
    return f"{MARK}now0{pattern.encode().hex()}0"


def _dated(text: str, when: datetime) -> str:
    return _NOW.sub(lambda found: when.strftime(bytes.fromhex(found[1]).decode()), text)


def _placed(text: str, directory: Path) -> str:
    shown = str(directory)
    return text.replace(
        HERE, shown if _PLAIN.fullmatch(shown) else json.dumps(shown, ensure_ascii=False)
    )


def _replaced(value: Any, directory: Path, when: datetime) -> Any:
    if isinstance(value, str):
        return _dated(value, when).replace(HERE, str(directory))
    if isinstance(value, dict):
        return {key: _replaced(item, directory, when) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, directory, when) for item in value]
    return value
