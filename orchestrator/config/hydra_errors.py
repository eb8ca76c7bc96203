"""Hydra's and OmegaConf's errors in one line each, with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from orchestrator.config.validate import (
    MEND_INTERPOLATION,
    decapitalized,
    field_names,
    is_mapping,
)
from orchestrator.errors import ConfigError, OrchestrateError, nearest
from orchestrator.locations import shown

_NOT_IN_STRUCT: Final = re.compile(r"Key '([^']+)' is not in struct")
_OVERRIDE: Final = re.compile(r"Could not (?:override|append to|delete from config)[^']*'([^']+)'")
_PRESENT: Final = re.compile(r"An item is already at '([^']+)'")
_GROUP: Final = re.compile(r"Could not override '([^']+)'\.\s*No match in the defaults list")
_IN_FILE: Final = re.compile(r"^In '([^']+)': ")
_OF_HYDRA: Final = re.compile(r"Sweeping over Hydra's configuration is not supported : '(.+)'")
_COMPOSING: Final = re.compile(r"^In '([^']+)': \w+ raised while composing config:\n(.+)")
# What the parser of overrides says, and what it says around it.
_UNEXPECTED: Final = re.compile(
    r"(?:(?:mismatched|extraneous) input|no viable alternative at input"
    r"|token recognition error at:) '(.*?)'"
)
_EVALUATING: Final = re.compile(r"^\w+ while evaluating '.*': ")
_NO_NEWS: Final = ("Error parsing override", "See https://")
_YAML_HINTS: Final = {
    r"'\t'": "indent with spaces, not with tabs",
    "duplicate key": "leave one of them out",
}


COMPOSITION_ERRORS: Final = (HydraException, OmegaConfBaseException, YAMLError, RecursionError)


def unusable(exc: ValueError, overrides: Sequence[str]) -> ConfigError:
    """Return the error for an override that Hydra takes but cannot use: ``group=null``."""
    empty = next((text for text in overrides if text.endswith("=null")), "")
    return ConfigError(
        str(exc).splitlines()[0],
        where=f"override '{empty}'" if empty else "",
        hint="give the name of an option" if empty else "",
    )


def undecodable(folders: Sequence[Path], exc: UnicodeDecodeError) -> ConfigError:
    """Return the error for a file below *folders* that is not UTF-8; Hydra does not say which."""
    for path in [path for folder in folders for path in sorted(folder.rglob("*.yaml"))]:
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as found:
            line = found.object.count(b"\n", 0, found.start) + 1
            where = f"{shown(path)}, line {line}"
            return ConfigError("is no UTF-8", where=where, hint="save the file as UTF-8")
        except OSError:
            continue
    return ConfigError(f"is no UTF-8: {exc.reason}", where="configuration")


def translate(exc: Exception, overrides: Sequence[str]) -> OrchestrateError:
    """Return *exc*, one of ``COMPOSITION_ERRORS``, as an error in the user's terms."""
    if isinstance(exc, MissingConfigException):
        return _missing(exc)
    if isinstance(exc, YAMLError):
        return _unreadable(exc)
    if isinstance(exc, RecursionError):
        return ConfigError(
            "the files' defaults lists lead back to where they began",
            where="defaults",
            hint="look for two files that name each other in their defaults",
        )
    if isinstance(exc, OverrideParseException):
        return _unparsable(exc)
    return _by_text(exc, overrides)


def _by_text(exc: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return the error for what has no class of its own but is told by its words."""
    text = str(exc)
    if (found := _OF_HYDRA.search(text)) is not None:
        return ConfigError(
            "what Hydra itself is told holds for the whole run, so it has one value",
            where=f"override '{found[1]}'",
            hint="give one value; each variant has a directory of its own below hydra.sweep.dir",
        )
    causes = text + str(exc.__cause__ or "")
    if (found := _PRESENT.search(text)) is not None:
        return ConfigError(
            "is there already",
            where=f"{found[1]} (command line)",
            hint="leave out the +, or write ++ to set it whether it is there or not",
        )
    if (found := _GROUP.search(text)) is not None:
        file = _IN_FILE.search(text)
        return _unknown(found[1], exc, place=f"{file[1]}.yaml" if file else "command line")
    if (found := _OVERRIDE.search(text)) is not None or _NOT_IN_STRUCT.search(causes):
        key = found[1] if found else _key_of(overrides, _NOT_IN_STRUCT.search(causes))
        return _unknown(key, exc)
    if (found := _COMPOSING.search(text)) is not None:
        return _uncomposable(f"{found[1]}.yaml", found[2], text)
    first = next((line for line in text.splitlines() if line.strip()), type(exc).__name__)
    where = getattr(exc, "full_key", "") or ""
    if isinstance(exc, InterpolationResolutionError):
        return ConfigError(decapitalized(first), where=where, hint=MEND_INTERPOLATION)
    return ConfigError(first, where=where)


def _unparsable(exc: OverrideParseException) -> ConfigError:
    lines = [line for line in str(exc).splitlines() if line and not line.startswith(_NO_NEWS)]
    text = _EVALUATING.sub("", lines[0]) if lines else "it is no override"
    if (found := _UNEXPECTED.search(text)) is not None:
        text = f"'{found[1]}' is not expected" if found[1] != "<EOF>" else "it ends too early"
    listed = next((line for line in lines if line.startswith("Available: ")), "")
    functions = listed.removeprefix("Available: ").replace(",", ", ")
    return ConfigError(
        f"cannot be read: {decapitalized(text)}",
        where=f"override '{exc.override}'",
        hint=f"functions: {functions}"
        if functions
        else "an override is key=value; quote what the shell would change",
    )


def _uncomposable(file: str, said: str, text: str) -> ConfigError:
    """Return the error for a *file* whose content does not fit; *text* has a line ``full_key``."""
    key = next((part[1] for part in re.finditer(r"full_key: (\S+)", text)), "")
    where = f"{key} ({file})" if key else file
    if "with ListConfig" in said:
        return ConfigError("is a list, but a configuration is a mapping (key: value)", where=where)
    if (found := re.match(r"Key '([^']+)' not in '", said)) is not None:
        return ConfigError(f"unknown key '{found[1]}'", where=where)
    return ConfigError(f"does not fit: {decapitalized(said)}", where=where)


def _unreadable(exc: YAMLError) -> ConfigError:
    if isinstance(exc, ReaderError):
        return ConfigError(
            f"is no YAML: the character at position {exc.position} is not allowed",
            where=shown(Path(str(exc.name))),
            hint="remove it, or save the file as text in UTF-8",
        )
    mark = exc.problem_mark if isinstance(exc, MarkedYAMLError) else None
    if mark is None or not isinstance(exc, MarkedYAMLError):
        return ConfigError(f"is no YAML: {str(exc).splitlines()[0]}", where="configuration")
    problem = str(exc.problem)
    return ConfigError(
        f"is no YAML: {problem}",
        where=f"{shown(Path(mark.name))}, line {mark.line + 1}",
        hint=next((hint for part, hint in _YAML_HINTS.items() if part in problem), ""),
    )


def _missing(exc: MissingConfigException) -> ConfigError:
    name = exc.missing_cfg_file or ""
    group, _, option = name.rpartition("/")
    options = list(exc.options or [])
    if not group:
        return ConfigError(
            f"there is no configuration '{name}'", hint="it is looked for in ./conf and built-in"
        )
    return ConfigError(
        f"there is no '{option}'",
        where=group,
        hint=nearest(option, options) or f"available: {', '.join(sorted(options))}",
    )


def _unknown(key: str, exc: Exception, place: str = "command line") -> ConfigError:
    if "@" in key:
        return ConfigError(
            f"there is no group '{key.partition('@')[0]}' here to override",
            where=key,
            hint="a file that overrides other groups needs '# @package _global_' as its first line",
        )
    group, _, name = key.rpartition(".")
    known = field_names(group)
    absent = _absent(exc)
    if group and name in known and absent == name:
        return ConfigError(
            "is not in the chosen files, so there is nothing to change",
            where=f"{key} (command line)",
            hint=f"to add it write +{key}=...",
        )
    if is_mapping(key):
        return ConfigError(
            "cannot be replaced as a whole", where=key, hint=f"add its entries: +{key}.NAME=..."
        )
    if is_mapping(group):
        return ConfigError(
            f"there is no entry '{name}' to change", where=key, hint=f"to add one write +{key}=..."
        )
    near = nearest(name, known)
    return ConfigError(
        f"unknown key '{name}'",
        where=f"{key} ({place})",
        hint=near or (f"known keys: {', '.join(known)}" if known else str(exc).splitlines()[0]),
    )


def _absent(exc: Exception) -> str:
    """Return the name of the key that OmegaConf did not find, or ''."""
    found = _NOT_IN_STRUCT.search(f"{exc} {exc.__cause__ or ''}")
    return found[1] if found else ""


def _key_of(overrides: Sequence[str], found: re.Match[str] | None) -> str:
    name = found[1] if found else ""
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    return next((key for key in keys if key.rpartition(".")[2] == name), name)
