"""Hydra's and OmegaConf's errors in one line each, with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from orchestrator.config.origin import shown
from orchestrator.config.validate import field_names, is_mapping
from orchestrator.errors import ConfigError, OrchestrateError, nearest

_NOT_IN_STRUCT: Final = re.compile(r"Key '([^']+)' is not in struct")
_OVERRIDE: Final = re.compile(r"Could not (?:override|append to|delete from config)[^']*'([^']+)'")
_PRESENT: Final = re.compile(r"An item is already at '([^']+)'")
_GROUP: Final = re.compile(r"Could not override '([^']+)'\.\s*No match in the defaults list")


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
    text = str(exc)
    if isinstance(exc, OverrideParseException):
        return ConfigError(
            f"cannot be read: {text.splitlines()[0]}",
            where=f"override '{exc.override}'",
            hint="an override is key=value; quote what the shell would change",
        )
    causes = text + str(exc.__cause__ or "")
    if (found := _PRESENT.search(text)) is not None:
        return ConfigError(
            "is there already",
            where=f"{found[1]} (command line)",
            hint="leave out the +, or write ++ to set it whether it is there or not",
        )
    if (found := _GROUP.search(text)) is not None:
        return _unknown(found[1], exc)
    if (found := _OVERRIDE.search(text)) is not None or _NOT_IN_STRUCT.search(causes):
        key = found[1] if found else _key_of(overrides, _NOT_IN_STRUCT.search(causes))
        return _unknown(key, exc)
    first = next((line for line in text.splitlines() if line.strip()), type(exc).__name__)
    where = getattr(exc, "full_key", "") or ""
    return ConfigError(first, where=where)


def _unreadable(exc: YAMLError) -> ConfigError:
    mark = exc.problem_mark if isinstance(exc, MarkedYAMLError) else None
    if mark is None or not isinstance(exc, MarkedYAMLError):
        return ConfigError(f"is no YAML: {str(exc).splitlines()[0]}", where="configuration")
    return ConfigError(
        f"is no YAML: {exc.problem}", where=f"{shown(Path(mark.name))}, line {mark.line + 1}"
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


def _unknown(key: str, exc: Exception) -> ConfigError:
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
        where=f"{key} (command line)",
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
