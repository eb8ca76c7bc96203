"""Where a configuration value came from: the command line, or which file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

COMMAND_LINE = "command line"


def origin_of(key: str, cfg: DictConfig, primary: str) -> str:
    """Return where the dotted *key* was last set: ``command line``, a file, or '' when unknown."""
    overrides = [str(text) for text in OmegaConf.select(cfg, "hydra.overrides.task") or []]
    if any(_overrides(text, key) for text in overrides):
        return COMMAND_LINE
    choices = dict(OmegaConf.select(cfg, "hydra.runtime.choices") or {})
    sources = [
        Path(source["path"])
        for source in OmegaConf.select(cfg, "hydra.runtime.config_sources") or []
        if source["schema"] == "file"
    ]
    candidates = [("experiment", choices.get("experiment"), ""), ("", primary, "")]
    candidates += [(group, choice, group) for group, choice in choices.items()]
    for group, choice, package in candidates:
        relative = key.removeprefix(f"{package}.") if package else key
        if not choice or (package and relative == key):
            continue
        for source in sources:
            path = source / group / f"{choice}.yaml"
            if path.is_file() and _has(path, relative.split(".")):
                return shown(path)
    return ""


def shown(path: Path) -> str:
    """Return *path* relative to the current directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _overrides(text: str, key: str) -> bool:
    name = text.lstrip("+~").partition("=")[0]
    return name == key or key.startswith(f"{name}.") or name.startswith(f"{key}.")


def _has(path: Path, keys: Sequence[str]) -> bool:
    try:
        found: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True
