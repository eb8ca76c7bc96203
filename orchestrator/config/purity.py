"""Fields that enter a key must not come from a resolver that gives something else next time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from orchestrator.config.schema import KEYED
from orchestrator.errors import ConfigError
from orchestrator.plan.secrets import variables

PURE: Final = frozenset(
    {
        "oc.env",
        "oc.select",
        "oc.decode",
        "oc.create",
        "oc.dict.keys",
        "oc.dict.values",
        "oc.deprecated",
    }
)
_KEYED: Final = (*KEYED, "cache.salt")  # the salt enters every key; the rest of cache does not
_RESOLVER: Final = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:")
_REFERENCE: Final = re.compile(r"\$\{\s*(\.*[A-Za-z_][\w.\[\]]*)\s*\}")
# These take a key; what lies there decides.
_SELECTS: Final = re.compile(
    r"\$\{\s*(oc\.(?:select|dict\.keys|dict\.values|deprecated))\s*:\s*['\"]?([^,}'\"]*)"
)
_ENVIRONMENT: Final = re.compile(r"\$\{\s*oc\.env\s*:\s*([A-Za-z_]\w*)")
_REASONS: Final = {
    "now": "gives another value at every run, so nothing would ever be found in the cache",
    "hydra": "depends on how the command was started, not on what is built",
}


def check_purity(cfg: DictConfig) -> None:
    """Check the keyed groups of a composed configuration.

    Raises:
        ConfigError: a keyed field, directly or through another field, uses an impure resolver.
    """
    raw = _raw(cfg)
    for group in _KEYED:
        for key, text in _referenced(raw, group):
            resolver = _impure(raw, key, text, seen=set())
            if resolver is not None:
                reason = _REASONS.get(
                    resolver, "is not known to give the same value for the same configuration"
                )
                raise ConfigError(
                    f"takes its value from '${{{resolver}:...}}', which {reason}",
                    where=key,
                    hint="write the value itself; this field decides what is built",
                )


def environment(configs: Iterable[DictConfig]) -> dict[str, str]:
    """Return the environment variables that configurations read, with their values."""
    return variables({name for cfg in configs for name in environment_names(cfg)})


def environment_names(cfg: DictConfig) -> set[str]:
    """Return the environment variables that a configuration reads through ``oc.env``."""
    return {
        name
        for root, value in _raw(cfg).items()
        for _, text in _leaves(value, str(root))
        for name in _ENVIRONMENT.findall(text)
    }


def environment_of(cfg: DictConfig, key: str) -> list[str]:
    """Return the variables that the field *key* reads, directly or through other fields."""
    found: dict[str, None] = {}
    raw, queue, seen = _raw(cfg), [key], {key}
    while queue:
        for place, text in _referenced(raw, queue.pop()):
            found.update(dict.fromkeys(_ENVIRONMENT.findall(text)))
            targets = [_absolute(place, one) for one in _references(text)]
            queue += [target for target in targets if target not in seen]
            seen.update(targets)
    return list(found)


def _raw(cfg: DictConfig) -> dict[Any, Any]:
    """Return a configuration as it was written: interpolations are texts."""
    found = OmegaConf.to_container(cfg, resolve=False)
    return found if isinstance(found, dict) else {}


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield dotted key and unresolved text of every leaf below *value* that interpolates."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}.{number}")
    elif isinstance(value, str) and "${" in value:
        yield key, value


def _impure(raw: Any, key: str, text: str, seen: set[str]) -> str | None:
    for resolver in _RESOLVER.findall(text):
        if resolver not in PURE:
            return str(resolver)
    for resolver, selected in _SELECTS.findall(text):
        if selected.startswith("${"):
            return str(resolver)  # what it selects is known at run time only
    for reference in _references(text):
        target = _absolute(key, reference)
        if target.partition(".")[0] == "hydra":
            return "hydra"
        if target in seen:
            continue
        seen.add(target)
        for other, inner in _referenced(raw, target):
            found = _impure(raw, other, inner, seen)
            if found is not None:
                return found
    return None


def _references(text: str) -> list[str]:
    """Return the keys, absolute or relative, that a text refers to."""
    selected = [key.strip() for _, key in _SELECTS.findall(text)]
    return [*_REFERENCE.findall(text), *selected]


def _absolute(key: str, reference: str) -> str:
    """Return the absolute key of a relative reference such as ``.name`` or ``..group.name``."""
    reference = re.sub(r"\[(\w+)\]", r".\1", reference)
    dots = len(reference) - len(reference.lstrip("."))
    if not dots:
        return reference
    parents = key.split(".")[:-dots]
    return ".".join([*parents, reference.lstrip(".")])


def _referenced(raw: Any, key: str) -> list[tuple[str, str]]:
    node = raw
    for part in key.split("."):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return []
    return list(_leaves(node, key))
