"""Where a configuration value came from: the command line, or which file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from orchestrator.locations import shown

COMMAND_LINE = "command line"


def origin_of(key: str, cfg: DictConfig, primary: str) -> str:
    """Return where the dotted *key* was last set: ``command line``, a file, or '' when unknown."""
    choices = dict(OmegaConf.select(cfg, "hydra.runtime.choices") or {})
    overrides = [text for text in task_overrides(cfg) if _name(text) not in choices]
    if any(_overrides(text, key) for text in overrides):
        return COMMAND_LINE  # group=option only chooses a file, which is looked at below
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
            path = _setter(source / group, str(choice), relative.split("."), set())
            if path is not None:
                return shown(path)
    return ""


def task_overrides(cfg: DictConfig) -> list[str]:
    """Return the overrides as they were written: interpolations in them are not resolved."""
    node = OmegaConf.select(cfg, "hydra.overrides.task")
    texts = OmegaConf.to_container(node, resolve=False) if node is not None else []
    return [str(text) for text in texts] if isinstance(texts, list) else []


def _name(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def _overrides(text: str, key: str) -> bool:
    name = _name(text)
    return name == key or key.startswith(f"{name}.") or name.startswith(f"{key}.")


def _setter(folder: Path, option: str, keys: Sequence[str], seen: set[str]) -> Path | None:
    """Return the file of *option*, or of the options of its defaults list, that sets *keys*."""
    path = folder / f"{option}.yaml"
    if option in seen or not path.is_file():
        return None
    seen.add(option)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    if _has(content, keys):
        return path
    defaults = content.get("defaults") if isinstance(content, dict) else None
    options = [name for name in defaults or [] if isinstance(name, str)]
    found = (_setter(folder, name, keys, seen) for name in reversed(options))
    return next((one for one in found if one is not None), None)


def _has(content: Any, keys: Sequence[str]) -> bool:
    found = content
    for key in keys:
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return False
    return True
