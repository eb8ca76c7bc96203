"""``exclude`` and ``include`` of a sweep: read from ``hydra.sweeper``, checked, compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from orchestrator.config.validate import field_names, is_mapping
from orchestrator.errors import ConfigError, nearest

#: So many variants are more than anybody means.
MOST: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One override with one value.

    Attributes:
        key: As written, with ``+`` or ``~``.
        text: The whole override, as Hydra writes it.
        plain: The value as Hydra writes it, without quotes: what rules compare.
    """

    key: str
    text: str
    plain: str

    @property
    def name(self) -> str:
        """The group or field that it sets."""
        return bare(self.key)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of ``exclude`` or ``include``.

    Attributes:
        where: Its place in the configuration, such as ``hydra.sweeper.exclude[0]``.
        pairs: By name of a group or field, the values that it may have.
    """

    where: str
    pairs: Mapping[str, Sequence[Setting]]

    @property
    def text(self) -> str:
        """The rule in one line: ``precision=int8, model=minilm``."""
        return ", ".join(
            f"{values[0].key}={','.join(one.plain for one in values)}"
            for values in self.pairs.values()
        )

    def agrees(self, values: Mapping[str, str], names: Iterable[str]) -> bool:
        """Whether *values* (plain, by name) has what the rule says about each of *names*."""
        return all(any(values.get(name) == one.plain for one in self.pairs[name]) for name in names)


def bare(key: str) -> str:
    """Return the name in the key of an override: without ``+``, ``++`` or ``~``."""
    return key.lstrip("+~")


def settings(override: Override) -> list[Setting]:
    """Return an override's values, one setting for each.

    Raises:
        ConfigError: it has no list of values, or far too many.
    """
    key = override.get_key_element()
    where = f"override '{override.input_line}'"
    if override.value_type is None:
        return [Setting(key=key, text=key, plain="")]
    if not override.is_sweep_override():
        text, value = override.get_value_element_as_str(), override.value()
        plain = value if isinstance(value, str) else text
        return [Setting(key=key, text=f"{key}={text}", plain=plain)]
    if not override.is_discrete_sweep():
        raise ConfigError(
            "an interval has no list of values to make variants of",
            where=where,
            hint="name the values: a,b,c or range(start,stop,step)",
        )
    try:
        found = [_one(key, value) for value in islice(override.sweep_iterator(), MOST + 1)]
    except (ValueError, HydraException) as exc:
        raise ConfigError(f"cannot be enumerated: {exc}", where=where) from exc
    if len(found) > MOST:
        raise ConfigError(f"has more than {MOST} values", where=where, hint="give fewer")
    return found


def _one(key: str, value: Any) -> Setting:
    text = Transformer.str(value)
    plain = value.text if isinstance(value, QuotedString) else value
    return Setting(key=key, text=f"{key}={text}", plain=plain if isinstance(plain, str) else text)


def written(value: Any) -> str:
    """Return a value of a configuration file as an override has it: texts are in its grammar."""
    return value if isinstance(value, str) else Transformer.str(value)


def read_rules(kind: str, value: Any, parser: OverridesParser) -> list[Rule]:
    """Return the rules of ``hydra.sweeper.KIND``.

    Args:
        kind: ``exclude`` or ``include``; a rule of the latter has one value for each key.
        value: What the configuration has there, resolved.
        parser: Of Hydra's grammar.

    Raises:
        ConfigError: this is no list of mappings, or a pair cannot be read.
    """
    place = f"hydra.sweeper.{kind}"
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(
            "expected a list of rules", where=place, hint="for example [{precision: int8}]"
        )
    return [_rule(kind, f"{place}[{number}]", one, parser) for number, one in enumerate(value)]


def _rule(kind: str, where: str, value: Any, parser: OverridesParser) -> Rule:
    if not isinstance(value, dict) or not value:
        raise ConfigError(
            "expected groups or fields with their values",
            where=where,
            hint="for example {precision: int8, model: minilm}",
        )
    pairs = {bare(str(key)): _pair(str(key), item, where, parser) for key, item in value.items()}
    several = next((name for name, values in pairs.items() if len(values) != 1), "")
    if several and kind == "include":
        raise ConfigError(
            f"gives {len(pairs[several])} values for '{several}', but adds one variant",
            where=where,
            hint="write one rule for each value, or sweep over them in hydra.sweeper.params",
        )
    return Rule(where=where, pairs=pairs)


def _pair(key: str, value: Any, where: str, parser: OverridesParser) -> Sequence[Setting]:
    if isinstance(value, dict) and "." not in key:
        inner = next(iter(value), "FIELD")
        raise ConfigError(
            f"'{key}' has entries below it, but a rule has one level",
            where=where,
            hint=f"write {key}.{inner}: VALUE",
        )
    text = f"{key}={written(value)}"
    try:
        (override,) = parser.parse_overrides([text])  # unlike the other, it can list a glob
    except HydraException as exc:
        raise ConfigError(
            f"'{text}' is no override: {str(exc).splitlines()[0]}",
            where=where,
            hint="values are written as on the command line; quote special characters",
        ) from exc
    return settings(override)


class Names:
    """What a rule may name: the sweep's own keys, groups, and fields of the configuration."""

    def __init__(self, keys: Iterable[str], cfg: DictConfig, loader: ConfigLoader) -> None:
        """Take the sweep's keys, the configuration without them, and what lists the groups."""
        self._keys = list(dict.fromkeys(bare(key) for key in keys))
        self._loader = loader
        content = OmegaConf.to_container(cfg, resolve=False)
        self._content = content if isinstance(content, dict) else {}

    def check(self, where: str, names: Iterable[str], *, swept: bool = True) -> None:
        """Refuse names of what does not exist; *where* has them.

        Args:
            where: The key of the configuration that has them.
            names: Of groups and fields.
            swept: The sweep's own keys are known, whatever they are.

        Raises:
            ConfigError: a group or field is unknown.
        """
        for name in names:
            if _of_hydra(name):
                raise ConfigError(
                    "what Hydra itself is told holds for the whole run, not for a variant",
                    where=where,
                    hint=f"set {name} beside hydra.sweeper, or on the command line",
                )
            own = swept and name in self._keys
            if not own and not self._known(name.partition("@")[0]):
                near = nearest(name, [one for one in self._candidates(name) if one != name])
                shown = ", ".join(one for one in self._keys if one != name)
                raise ConfigError(
                    f"there is no group or field '{name}'",
                    where=where,
                    hint=near or (f"this sweep sets {shown}" if shown else ""),
                )

    def _known(self, name: str) -> bool:
        if "." not in name:
            group, _, option = name.rpartition("/")
            return option in self._loader.list_groups(group) or name in field_names("")
        parent, _, field = name.rpartition(".")
        free = any(is_mapping(prefix) for prefix in _prefixes(parent))
        return free or field in field_names(parent) or self._has(name)

    def _has(self, name: str) -> bool:
        node: Any = self._content
        for part in name.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return True

    def _candidates(self, name: str) -> list[str]:
        parent = name.rpartition(".")[0]
        fields = [f"{parent}.{field}" for field in field_names(parent)] if parent else []
        groups = [group for group in self._loader.list_groups("") if group != "hydra"]
        return [*self._keys, *groups, *fields]


def _of_hydra(name: str) -> bool:
    return re.split("[./]", name, maxsplit=1)[0] == "hydra"


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
