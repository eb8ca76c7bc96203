"""From a composed configuration to the typed one, with errors in the user's terms."""

from __future__ import annotations

import re
from typing import Any, Final, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from orchestrator.config.origin import origin_of
from orchestrator.config.purity import check_purity, environment, environment_of
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError, nearest
from orchestrator.plan.secrets import Secrets

PRIMARY: Final = "orchestrate"
MEND_INTERPOLATION: Final = "give the value, or mend the interpolation"
# What OmegaConf puts around the text of a resolver's exception.
_RESOLVING: Final = re.compile(r"^\w+ raised while resolving interpolation: \"?(.*?)\"?$")
# pydantic puts the tag of a discriminated union into the location; it is no key of the file.
_DATA: Final = frozenset({"generator", "npz", "npy", "images", "callable"})
_BACKENDS: Final = frozenset({"onnxruntime", "tensorrt"})
#: Key of a union → the key in it that tells its members apart, and that key's values.
_UNIONS: Final = {
    "samples": ("kind", _DATA),
    "calibration": ("kind", _DATA),
    "data": ("kind", _DATA),
    "target": ("backend", _BACKENDS),
}
# Nor are the branches of a plain union, such as a size or the name of a dimension.
_BRANCHES: Final = frozenset({"constrained-int", "str"})


def validate(cfg: DictConfig) -> Config:
    """Return the typed configuration of one variant.

    Args:
        cfg: What Hydra composed, its ``hydra`` section included.

    Raises:
        ConfigError: an unknown key, a wrong type or value, a missing value, an interpolation that
            does not resolve, or a keyed field with an impure resolver. The message has the key's
            full path, the file it came from, what was expected, and the nearest valid name; values
            of environment variables are not in it.
    """
    check_purity(cfg)
    try:
        return Config.model_validate(_resolved(cfg))
    except ValidationError as exc:
        # `from None`: pydantic's own text has the values.
        raise _without_values(_first_error(exc, cfg), cfg) from None
    except ConfigError as exc:
        raise _without_values(exc, cfg) from None


def _without_values(error: ConfigError, cfg: DictConfig) -> ConfigError:
    hide = Secrets(environment([cfg])).hide_text
    return ConfigError(hide(error.message), where=hide(error.where), hint=hide(error.hint))


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in cfg:
        if name == "hydra":
            continue
        try:
            node = OmegaConf.select(cfg, str(name), throw_on_missing=True)
            if OmegaConf.is_config(node):
                node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as exc:
            key = str(getattr(exc, "full_key", None) or name)
            message = _RESOLVING.sub(r"\1", str(exc).splitlines()[0])
            raise ConfigError(
                decapitalized(message), where=_where(key, cfg), hint=MEND_INTERPOLATION
            ) from exc
        values[str(name)] = node
    return values


def _first_error(exc: ValidationError, cfg: DictConfig) -> ConfigError:
    """Explain the errors of the most specific kind; the others often follow from it."""
    errors = sorted(
        exc.errors(include_url=False), key=lambda error: error["type"] != "extra_forbidden"
    )
    first = _explain(errors[0], cfg)
    if len(errors) > 1:
        others = [_key(error["loc"]) for error in errors[1:]]
        note = f"also wrong: {', '.join(dict.fromkeys(others))}"
        return ConfigError(
            first.message,
            where=first.where,
            hint=f"{first.hint}\n  → {note}" if first.hint else note,
        )
    return first


def _explain(error: Any, cfg: DictConfig) -> ConfigError:
    key, where = _key(error["loc"]), _where(_key(error["loc"]), cfg)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        names = _names_at(error["loc"][:-1])
        tag = _tag(error["loc"], len(error["loc"]) - 2)
        if error["loc"][-1] in names and tag:
            return ConfigError(
                f"'{error['loc'][-1]}' does not belong to {tag}={error['loc'][-2]}",
                where=where,
                hint="leave it out"
                if "(command line)" in where
                else f"another file set it, and Hydra merges the two; ~{key} removes it",
            )
        return ConfigError(
            f"unknown key '{key.rpartition('.')[2]}'",
            where=where,
            hint=nearest(str(error["loc"][-1]), names)
            or _packaged(error["loc"])
            or f"known keys: {', '.join(names)}",
        )
    if kind == "missing":
        return ConfigError(
            "a value is needed here",
            where=where,
            hint="'orchestrate --cfg job' shows the whole configuration",
        )
    value, shown = error["input"], _shown(error["input"], environment_of(cfg, key))
    if kind == "literal_error":
        expected = context["expected"]
        options = [part.strip("' ") for part in expected.replace(" or ", ", ").split(",")]
        return ConfigError(
            f"expected one of {', '.join(options)}; {shown}",
            where=where,
            hint="" if environment_of(cfg, key) else nearest(str(value), options),
        )
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        return ConfigError(f"expected {tag} to be one of {context['expected_tags']}", where=where)
    if kind == "string_pattern_mismatch" and "model" in error["loc"]:
        return ConfigError(f"expected package.module:name; {shown}", where=where)
    message = error["msg"].removeprefix("Value error, ")
    text = message.replace("Input should be ", "expected ").replace("Input ", "the value ")
    text = re.sub("expected (greater|less) than", r"expected a number \1 than", text)
    return ConfigError(text if kind == "value_error" else f"{text}; {shown}", where=where)


def _packaged(location: tuple[str | int, ...]) -> str:
    """Say what an experiment's file lacks that has another group's name in it."""
    others = {*Config.model_fields, "hydra", "defaults"}
    if location[0] != "experiment" or location[-1] not in others:
        return ""
    return "a file that sets other groups needs '# @package _global_' as its first line"


def decapitalized(text: str) -> str:
    """Return *text* as it stands after a colon."""
    return text[:1].lower() + text[1:]


def _shown(value: Any, variables: list[str]) -> str:
    """Say what was given; of a value from the environment, only where it came from."""
    if variables:
        return f"got the value of {', '.join(f'${{oc.env:{name}}}' for name in variables)}"
    if isinstance(value, str | int | float | bool | None):
        return f"got {value!r}"
    return f"got {type(value).__name__}"


def _key(location: tuple[str | int, ...]) -> str:
    parts: list[str] = []
    for at, part in enumerate(location):
        if _tag(location, at):
            continue
        if part in _BRANCHES and parts and parts[-1].isdecimal():
            continue
        parts.append(str(part))
    return ".".join(parts)


def _tag(location: tuple[str | int, ...], at: int) -> str:
    """Return the key that decides a union, when the part at index *at* is a value of it."""
    if at < 1:
        return ""
    key, values = _UNIONS.get(str(location[at - 1]), ("", frozenset[str]()))
    return key if location[at] in values else ""


def _where(key: str, cfg: DictConfig) -> str:
    origin = origin_of(key, cfg, PRIMARY)
    return f"{key} ({origin})" if origin else key


def _names_at(location: tuple[str | int, ...]) -> list[str]:
    """Return the field names that the schema has at *location*."""
    return sorted(_fields(Config, [str(part) for part in location]))


def _fields(group: Any, parts: list[str]) -> set[str]:
    found: set[str] = set()
    for model in _models(group):
        if not parts:
            found.update(model.model_fields)
            continue
        field = model.model_fields.get(parts[0])
        if field is not None:
            found |= _fields(field.annotation, parts[1:])
    if not found and parts:
        # A key of a mapping, an index of a list or the tag of a union: look behind it.
        for model in _models(group):
            if parts[0] not in model.model_fields:
                found |= _fields(group, parts[1:])
                break
    return found


def is_mapping(key: str) -> bool:
    """Whether the schema has a free mapping (of names a user chooses) at the dotted *key*."""
    annotation: Any = Config
    for part in key.split("."):
        fields = [model.model_fields for model in _models(annotation) if part in model.model_fields]
        if not fields:
            return False
        annotation = fields[0][part].annotation
    return get_origin(annotation) is dict


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


def field_names(group: str) -> list[str]:
    """Return the keys of a group, for error messages; empty for an unknown group."""
    return sorted(_fields(Config, group.split(".") if group else []))
