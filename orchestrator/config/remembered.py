"""Compositions remembered, so that a run in which nothing changed imports no Hydra.

Recalling one imports the typed schema and the index only; ``orchestrator.config.remember`` makes
them. What is remembered is JSON, with values of environment variables hidden.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from orchestrator.config.composition import Announcement, Composition, Point
from orchestrator.config.job_logging import configure
from orchestrator.config.schema import Config
from orchestrator.config.seen import Seen
from orchestrator.config.surroundings import module_path, surroundings
from orchestrator.locations import bundled
from orchestrator.plan.observed import variable
from orchestrator.plan.secrets import Secrets, variables
from orchestrator.report.directories import SWEPT, make_exclusively, reserved
from orchestrator.store import digests
from orchestrator.store.index import Index

FORMAT: Final = 3
#: The files that Hydra saves of a variant, in the order in which their texts are kept.
SAVED: Final = ("config.yaml", "hydra.yaml", "overrides.yaml")
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


def recall(request: Request, index: Index, until: ExitStack) -> Composition | None:
    """Return the remembered composition of *request*, or None when it has to be composed.

    Its run lies within *until*, which gives a sweep's directory back when nothing came of it.

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
        return _recalled(json.loads(body), request, until)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None  # written by another version


def hiding(names: Iterable[str]) -> Secrets:
    """Return what hides the values of the variables *names*."""
    return Secrets(variables(names))


def _digests(names: Iterable[str]) -> dict[str, str]:
    """Return a digest of each variable's value; an empty text for one that is not set."""
    return {name: variable(name) for name in sorted(names)}


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
            "variables": _digests(names),
            "content": hidden,
        }
    )
    return f"{digests.of_bytes(body.encode())}\n{body}"


def _recalled(entry: Any, request: Request, until: ExitStack) -> Composition | None:
    if entry["format"] != FORMAT or entry["around"] != request.around:
        return None
    names = list(entry["variables"])
    if _digests(names) != entry["variables"]:
        return None
    content = hiding(names).reveal(entry["content"])
    further = content["plugins"]
    if further and surroundings(request.path, further) != content["around"]:
        return None
    if not Seen.from_json(content["seen"]).holds():
        return None
    return _decoded(content, until)


def _decoded(content: Mapping[str, Any], until: ExitStack) -> Composition:
    when = datetime.now()  # local time, as Hydra's ${now:}
    told = content["announcement"]
    return Composition(
        points=[_point(content, one) for one in content["variants"]],
        sweep=content["sweep"],
        environment=variables(content["named"]),
        reserve=partial(_reserve, content, when, until),
        log_to=partial(_log_to, content, when),
        announcement=Announcement(**told) if told else None,
    )


def _point(content: Mapping[str, Any], one: Mapping[str, Any]) -> Point:
    values = [content["values"][place] for place in one["config"]]
    texts = ["".join(content["blocks"][place] for place in text) for text in one["texts"]]
    return Point(
        index=one["index"],
        name=one["name"],
        overrides=one["overrides"],
        config=Config.model_validate(dict(zip(content["groups"], values, strict=True))),
        save=partial(_save, one["folder"], texts),
    )


def _save(below: str, texts: Sequence[str], directory: Path) -> Path:
    folder = directory / below
    folder.mkdir(exist_ok=True)
    for name, text in zip(SAVED, texts, strict=True):
        (folder / name).write_text(_placed(text, directory), encoding="utf-8")
    return folder


def _reserve(content: Mapping[str, Any], when: datetime, until: ExitStack) -> Path:
    wanted = Path(_dated(content["directory"], when))
    if not content["sweep"]:
        return make_exclusively(wanted)
    directory = until.enter_context(reserved(wanted))
    text = _placed(content["multirun"], directory)
    (directory / SWEPT).write_text(text, encoding="utf-8")
    return directory


def _log_to(content: Mapping[str, Any], when: datetime, directory: Path) -> None:
    configure(_replaced(content["logging"], directory, when), content["verbose"])


# What only a run knows stands in the texts as a mark. A text of a user's that has one by itself is
# not remembered (see remember()).
MARK: Final = "orchestrate0mark0"
HERE: Final = f"{MARK}here0"
_PLACE: Final = re.compile(rf"^( *)(\w+): {HERE}$", re.MULTILINE)
_NOW: Final = re.compile(rf"{MARK}now0([0-9a-f]*)0")


def now_mark(pattern: str) -> str:
    """Return what stands for ``${now:PATTERN}``."""
    return f"{MARK}now0{pattern.encode().hex()}0"


def _dated(text: str, when: datetime) -> str:
    return _NOW.sub(lambda found: when.strftime(bytes.fromhex(found[1]).decode()), text)


def _placed(text: str, directory: Path) -> str:
    return _PLACE.sub(lambda found: _line(len(found[1]) // 2, found[2], str(directory)), text)


def _line(depth: int, key: str, value: str) -> str:
    """Return ``key: value`` as OmegaConf writes it *depth* levels deep, where it may be folded."""
    if _PLAIN.fullmatch(value):
        return f"{'  ' * depth}{key}: {value}"
    import yaml

    content: Any = {key: value}
    for _ in range(depth):
        content = {"_": content}
    text = yaml.dump(content, allow_unicode=True, default_flow_style=False)
    return "\n".join(text.rstrip("\n").split("\n")[depth:])


def _replaced(value: Any, directory: Path, when: datetime) -> Any:
    if isinstance(value, str):
        return _dated(value, when).replace(HERE, str(directory))
    if isinstance(value, dict):
        return {key: _replaced(item, directory, when) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, directory, when) for item in value]
    return value
