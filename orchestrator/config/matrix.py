"""A sweep's matrix: the product of all values, without what rules exclude, with what they include.

As in the matrices of CI systems. A rule of ``exclude`` removes the combinations whose overrides
have all its values. A rule of ``include`` adds its other pairs to the combinations that agree with
it in everything that the matrix sets; where there is none, it is a variant of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from orchestrator.config.matrix_rules import (
    MOST,
    Names,
    Rule,
    Setting,
    bare,
    read_rules,
    settings,
    written,
)
from orchestrator.config.validate import MEND_INTERPOLATION, decapitalized
from orchestrator.errors import ConfigError, nearest

OURS: Final = "hydra_plugins.orchestrate.sweeper.OrchestrateSweeper"
#: What ``hydra.sweeper`` may have besides ``_target_``.
KEYS: Final = ("params", "exclude", "include", "max_batch_size")

_Variant = tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one rule did: how many variants it removed, added or extended; *reason* when none."""

    rule: Rule
    removed: int = 0
    added: int = 0
    extended: int = 0
    reason: str = ""

    @property
    def none(self) -> bool:
        """Whether it did nothing."""
        return not self.removed and not self.added and not self.extended

    def line(self) -> str:
        """Return what it did in one line."""
        parts = [
            f"{count} variant{'s' * (count != 1)} {what}"
            for count, what in (
                (self.removed, "removed"),
                (self.added, "added"),
                (self.extended, "extended"),
            )
            if count
        ]
        done = ", ".join(parts) or f"matches nothing: {self.reason}"
        return f"{self.rule.where} ({self.rule.text}): {done}"


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All variants of a sweep, and how they came about.

    Attributes:
        variants: The overrides of each.
        combinations: How many the product has, before the rules.
        collapsed: How many were left out because their overrides equal another's.
        effects: What each rule did.
        declared: The configuration declares it and ``-m`` was not given.
    """

    variants: Sequence[Sequence[str]]
    combinations: int
    collapsed: int = 0
    effects: Sequence[Effect] = ()
    declared: bool = False

    def lines(self) -> list[str]:
        """Return what a user should see: why this is a sweep, and what the rules did."""
        found = []
        if self.declared:
            count = len(self.variants)
            found.append(
                f"the configuration declares a matrix (hydra.sweeper), so this is a sweep as with "
                f"-m: {count} variant{'s' * (count != 1)}"
            )
        found += [effect.line() for effect in self.effects if not effect.none]
        if self.collapsed:
            found.append(f"{self.collapsed} of the variants given more than once: built once")
        return found

    def warnings(self) -> list[str]:
        """Return a line for each rule that did nothing."""
        return [effect.line() for effect in self.effects if effect.none]

    def as_json(self) -> dict[str, Any]:
        """Return rules and counts as JSON."""
        return {
            "declared": self.declared,
            "combinations": self.combinations,
            "collapsed": self.collapsed,
            "variants": len(self.variants),
            "rules": [
                {
                    "where": effect.rule.where,
                    "pairs": {
                        name: [one.plain for one in values]
                        for name, values in effect.rule.pairs.items()
                    },
                    "removed": effect.removed,
                    "added": effect.added,
                    "extended": effect.extended,
                }
                for effect in self.effects
            ],
        }


def declares_matrix(cfg: DictConfig) -> bool:
    """Whether a composed configuration has a matrix of its own."""
    return any(OmegaConf.select(cfg, f"hydra.sweeper.{key}") for key in KEYS[:3])


def check_keys(cfg: DictConfig) -> None:
    """Check the names and types below ``hydra.sweeper``, where it is ours.

    Raises:
        ConfigError: an unknown key, parameters that are no mapping, or a batch of no size.
    """
    section = OmegaConf.select(cfg, "hydra.sweeper")
    if section is not None and not isinstance(section, DictConfig):
        raise ConfigError(
            f"expected settings such as params, exclude and include; got {section!r}",
            where="hydra.sweeper",
            hint="another sweeper is chosen in a defaults list: '- override hydra/sweeper: NAME'",
        )
    raw = OmegaConf.to_container(section, resolve=False) if section is not None else {}
    if section is None or not isinstance(raw, dict) or raw.get("_target_") != OURS:
        return
    for key in map(str, raw):
        if key not in KEYS and not key.startswith("_"):
            hint = nearest(key, KEYS) or f"known keys: {', '.join(KEYS)}"
            raise ConfigError(f"unknown key '{key}'", where=f"hydra.sweeper.{key}", hint=hint)
    params = raw.get("params")
    if params is not None and not isinstance(params, dict) and "${" not in str(params):
        raise ConfigError(
            "expected groups and fields with their values",
            where="hydra.sweeper.params",
            hint="for example {precision: 'fp32,int8'}",
        )
    if params == {} and not raw.get("include"):
        raise ConfigError(
            "is empty, so the matrix is empty",
            where="hydra.sweeper.params",
            hint="give values, such as {precision: 'fp32,int8'}, or leave it out",
        )
    for key in KEYS[:3]:
        _check_interpolations(section, key)
    size = OmegaConf.select(cfg, "hydra.sweeper.max_batch_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(
            f"expected a whole number from 1, or null; got {size!r}",
            where="hydra.sweeper.max_batch_size",
            hint="leave it out: all variants are then one graph",
        )


def _check_interpolations(section: DictConfig, key: str) -> None:
    """Refuse what leads nowhere; resolvers such as ``${hydra:...}`` have their turn later.

    Raises:
        ConfigError: an interpolation names no key, or leads back to itself.
    """
    try:
        value = section.get(key)
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)
    except InterpolationResolutionError as exc:
        text = str(exc).splitlines()[0]
        if isinstance(exc, InterpolationKeyError) or text.startswith("Recursive"):
            raise ConfigError(
                decapitalized(text), where=f"hydra.sweeper.{key}", hint=MEND_INTERPOLATION
            ) from exc


def read_matrix(
    section: Mapping[str, Any], arguments: Sequence[str], cfg: DictConfig, loader: ConfigLoader
) -> Matrix:
    """Return the variants of a sweep.

    Args:
        section: ``params``, ``exclude`` and ``include`` of ``hydra.sweeper``, resolved.
        arguments: The overrides of the command line; they replace ``params`` of the same key.
        cfg: The configuration of the sweep itself.
        loader: Lists groups and their options.

    Raises:
        ConfigError: nothing is left, or a rule cannot be read or names something unknown.
        HydraException: an override cannot be parsed.
    """
    parser = OverridesParser.create(config_loader=loader)
    params = section.get("params") or {}
    overrides = parser.parse_overrides([*_texts(params), *arguments])
    axes = {one.get_key_element(): (one.input_line or "", settings(one)) for one in overrides}
    for text, values in axes.values():
        if not values:
            raise ConfigError(
                "has no values, so the matrix is empty",
                where=f"override '{text}'",
                hint="give at least one value",
            )
    rules = {kind: read_rules(kind, section.get(kind), parser) for kind in ("exclude", "include")}
    names = Names(axes, cfg, loader)
    for key in params:
        names.check(f"hydra.sweeper.params.{key}", [bare(str(key))], swept=False)
    for rule in [*rules["exclude"], *rules["include"]]:
        names.check(rule.where, rule.pairs)
    swept = bool(params) or any(one.is_sweep_override() for one in overrides)
    return expand([values for _, values in axes.values()], **rules, swept=swept)


def _texts(params: Mapping[Any, Any]) -> list[str]:
    """Return parameters as overrides; a list has one variant for each of its entries.

    Raises:
        ConfigError: one has entries below it.
    """
    found = []
    for key, value in params.items():
        if isinstance(value, dict):
            raise ConfigError(
                "has entries below it, but parameters have one level",
                where=f"hydra.sweeper.params.{key}",
                hint=f"write {key}.{next(iter(value), 'FIELD')}: VALUES",
            )
        if isinstance(value, list) and not value:
            raise ConfigError(
                "has no values, so the matrix is empty",
                where=f"hydra.sweeper.params.{key}",
                hint="give at least one value",
            )
        listed = value if isinstance(value, list) else [value]
        found.append(f"{key}={','.join(written(one) for one in listed)}")
    return found


def expand(
    axes: Sequence[Sequence[Setting]],
    *,
    exclude: Sequence[Rule] = (),
    include: Sequence[Rule] = (),
    swept: bool = True,
) -> Matrix:
    """Return the product of *axes* after the rules, in the product's order, additions last.

    Args:
        axes: The settings of each override, one or several.
        exclude: Applied first, in order.
        include: Applied to what is left, in order.
        swept: Some axis is meant as one. Without, rules of ``include`` list all variants.

    Raises:
        ConfigError: too many variants, or none.
    """
    count = math.prod(len(axis) for axis in axes)
    if count > MOST:
        product_of = " × ".join(str(len(axis)) for axis in axes if len(axis) > 1)
        raise ConfigError(
            f"{product_of} = {count} combinations are more than {MOST}",
            where="sweep",
            hint="give fewer values, or list what you mean in hydra.sweeper.include",
        )
    kept: list[_Variant] = list(product(*axes)) if swept or not include else []
    combinations = len(kept)
    effects = []
    for rule in exclude:
        kept, effect = _exclude(rule, kept, axes)
        effects.append(effect)
    fixed = [axis[0] for axis in axes if len(axis) == 1]
    names = {axis[0].name for axis in axes}
    added: list[_Variant] = []
    for rule in include:
        kept, more, effect = _include(rule, kept, names, fixed)
        added += more
        effects.append(effect)
    if not kept and not added:
        raise ConfigError(
            f"the rules leave none of {combinations} variants",
            where="hydra.sweeper.exclude",
            hint="; ".join(effect.line() for effect in effects),
        )
    distinct = {tuple(sorted(one.text for one in variant)): variant for variant in kept + added}
    return Matrix(
        variants=[[one.text for one in variant] for variant in distinct.values()],
        combinations=combinations,
        collapsed=len(kept) + len(added) - len(distinct),
        effects=effects,
    )


def _exclude(
    rule: Rule, kept: list[_Variant], axes: Sequence[Sequence[Setting]]
) -> tuple[list[_Variant], Effect]:
    left = [variant for variant in kept if not rule.agrees(_values(variant), rule.pairs)]
    removed = len(kept) - len(left)
    return left, Effect(rule=rule, removed=removed, reason="" if removed else _why(rule, axes))


def _why(rule: Rule, axes: Sequence[Sequence[Setting]]) -> str:
    """Say why a rule of ``exclude`` removes nothing."""
    known = {axis[0].name: [one.plain for one in axis] for axis in axes}
    for name, wanted in rule.pairs.items():
        if name not in known:
            return f"this sweep does not set {name}"
        if not {one.plain for one in wanted} & set(known[name]):
            return f"{name} is only {', '.join(dict.fromkeys(known[name]))}"
    return "no combination that is left has all of it"


def _include(
    rule: Rule, kept: list[_Variant], names: set[str], fixed: Sequence[Setting]
) -> tuple[list[_Variant], list[_Variant], Effect]:
    """Return the combinations, extended where they agree, and the variants of its own."""
    shared = [name for name in rule.pairs if name in names]
    more = tuple(values[0] for name, values in rule.pairs.items() if name not in names)
    agreeing = [rule.agrees(_values(variant), shared) for variant in kept]
    if not any(agreeing):
        own = tuple(values[0] for values in rule.pairs.values())
        rest = tuple(one for one in fixed if one.name not in rule.pairs)
        return kept, [(*rest, *own)], Effect(rule=rule, added=1)
    if not more:
        return kept, [], Effect(rule=rule, reason="the matrix has it already")
    replaced = {one.name for one in more}
    extended = [
        (*(one for one in variant if one.name not in replaced), *more) if agrees else variant
        for variant, agrees in zip(kept, agreeing, strict=True)
    ]
    return extended, [], Effect(rule=rule, extended=sum(agreeing))


def _values(variant: _Variant) -> dict[str, str]:
    return {one.name: one.plain for one in variant}
