"""What the schema says about itself: JSON Schemas for editors and the reference of all keys."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from orchestrator.config.schema import Config

Json = dict[str, Any]

_HEAD: Final = """\
# Configuration reference

Generated from `orchestrator/config/schema.py` by `make reference`. One section for each config
group; the built-in options of a group are the files in `conf/GROUP/`. Keys are written as on the
command line (`precision.keep_io=false`); NAME stands for a name of your choice, N for a position in
a list. An unknown key is an error.
"""
_BOUNDS: Final = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
}
_DOTTED: Final = "package.module:name"


def json_schemas() -> dict[str, Json]:
    """Return the JSON Schema of every config group, by group name."""
    return {name: _merged([_schema(one) for one in choices]) for name, choices in _groups()}


def markdown_reference() -> str:
    """Return ``docs/reference/config.md``: every key with type, default and meaning."""
    links = ", ".join(f"[{name}](#{name})" for name, _ in _groups())
    parts = [_HEAD, f"\n{links}\n"]
    for name, choices in _groups():
        if len(choices) > 1:
            parts.append(f"\n## {name}\n\nOne of {len(choices)}, told apart by `backend`.\n")
        for group in choices:
            schema = _schema(group)
            kind = _tag(group) if len(choices) > 1 else ""
            sections = _Sections(schema, _classes(group))
            parts += sections.of(name, schema, group.__name__, kind=kind)
    return "".join(parts)


def _groups() -> Iterator[tuple[str, list[type[BaseModel]]]]:
    """Yield each group with its schema class, or with those of a union that ``backend`` decides."""
    for name, field in Config.model_fields.items():
        found = getattr(field.annotation, "__args__", (field.annotation,))
        choices = [one for one in found if isinstance(one, type) and issubclass(one, BaseModel)]
        if not choices:
            raise TypeError(f"config group '{name}' has no schema class")
        yield name, choices


def _tag(group: type[BaseModel]) -> str:
    """Return the value of ``backend`` that chooses *group*."""
    (value,) = get_args(group.model_fields["backend"].annotation)
    return str(value)


def _merged(schemas: list[Json]) -> Json:
    """Return one schema that takes what any of *schemas* takes, key by key."""
    first = schemas[0]
    for other in schemas[1:]:
        for key, value in other["properties"].items():
            mine = first["properties"].setdefault(key, value)
            if mine != value:
                first["properties"][key] = {"anyOf": [*_alternatives(mine), value]}
        if "$defs" in other:
            first.setdefault("$defs", {}).update(other["$defs"])
    return first


def _schema(group: type[BaseModel]) -> Json:
    schema = group.model_json_schema()
    classes = _classes(group)
    for title, definition in [(group.__name__, schema), *schema.get("$defs", {}).items()]:
        for key, field in classes[title].model_fields.items():
            if field.default_factory is not None:  # pydantic leaves these out
                made = field.get_default(call_default_factory=True, validated_data={})
                definition["properties"][key]["default"] = made
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # Files of a group may leave keys to others (defaults lists, overrides): none is required.
    schema.pop("required", None)
    schema.setdefault("properties", {})["defaults"] = {
        "type": "array",
        "description": "Hydra's defaults list.",
    }
    return schema


def _classes(group: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return *group* and all classes below it, by name."""
    found = {group.__name__: group}
    queue = [field.annotation for field in group.model_fields.values()]
    while queue:
        part: Any = queue.pop()
        if isinstance(part, type) and issubclass(part, BaseModel):
            if part.__name__ not in found:
                found[part.__name__] = part
                queue += [field.annotation for field in part.model_fields.values()]
        else:
            queue += getattr(part, "__args__", ())
    return found


class _Sections:
    """The sections of one group: its own keys, then those of each group nested in it, once."""

    def __init__(self, schema: Json, classes: Mapping[str, type[BaseModel]]) -> None:
        self._defs: Json = schema.get("$defs", {})
        self._classes = classes
        self._places: dict[tuple[str, ...], str] = {}

    def of(self, path: str, schema: Json, title: str, *, kind: str = "") -> Iterator[str]:
        """Yield the section of *path* and those below it; *kind* is the choice in a union."""
        nested = "." in path
        depth = "###" if nested or kind else "##"
        told = f", {'kind' if nested else 'backend'}: {kind}" if kind else ""
        yield f"\n{depth} {path}{told}\n\n{_told(schema)}\n\n"
        below: list[tuple[str, tuple[str, ...]]] = []
        yield "| key | type | default | meaning |\n|---|---|---|---|\n"
        fields = self._classes[title].model_fields
        for key, value in schema.get("properties", {}).items():
            if key not in fields:
                continue
            place, names = self._nested(f"{path}.{key}", value)
            if names and names not in self._places:
                self._places[names] = place
                below.append((place, names))
            shown = "required" if fields[key].is_required() else _default(value)
            cells = (f"`{key}`", self._type(value, place, names), shown, _meaning(value))
            yield f"| {' | '.join(cells)} |\n"
        for place, names in below:
            for name in names:
                tags = _options(self._defs[name].get("properties", {}).get("kind", {}))
                choice = " or ".join(tags) if len(names) > 1 else ""
                yield from self.of(place, self._defs[name], name, kind=choice)

    def _nested(self, path: str, value: Json) -> tuple[str, tuple[str, ...]]:
        """Return the place and names of the definitions that a value, or its items, refer to."""
        for inner, suffix in ((value, ""), (_items(value), ".N"), (_entries(value), ".NAME")):
            names = tuple(
                option["$ref"].rpartition("/")[2]
                for option in _alternatives(inner)
                if "$ref" in option
            )
            if names:
                return f"{path}{suffix}", names
        return path, ()

    def _type(self, value: Json, place: str, names: tuple[str, ...]) -> str:
        if not names:
            return _type(value)
        first = self._places[names]
        # A union has one section for each of its kinds; the link leads to the first of them.
        heading = first
        if len(names) > 1:
            tags = _options(self._defs[names[0]]["properties"]["kind"])
            heading = f"{first}, kind: {' or '.join(tags)}"
        link = f"[{first}](#{_anchor(heading)})"
        text = (
            f"as {link}" if first != place else f"map: {link}" if place.endswith(".NAME") else link
        )
        return f"{text} or null" if {"type": "null"} in _alternatives(value) else text


def _alternatives(value: Json) -> list[Json]:
    """Return the alternatives of a value, unions of unions flattened; itself when it is none."""
    for union in ("anyOf", "oneOf"):
        if union in value:
            return [one for option in value[union] for one in _alternatives(option)]
    return [value]


def _items(value: Json) -> Json:
    return next((o["items"] for o in _alternatives(value) if isinstance(o.get("items"), dict)), {})


def _entries(value: Json) -> Json:
    for option in _alternatives(value):
        if isinstance(option.get("additionalProperties"), dict):
            return dict(option["additionalProperties"])
        if "patternProperties" in option:
            return dict(next(iter(option["patternProperties"].values())))
    return {}


def _options(value: Json) -> list[str]:
    return [str(one) for one in value.get("enum", [value["const"]] if "const" in value else [])]


def _type(value: Json) -> str:
    if options := _options(value):
        return ", ".join(f"`{option}`" for option in options)
    alternatives = _alternatives(value)
    if len(alternatives) > 1:
        return " or ".join(_type(option) for option in alternatives)
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        entries = _entries(value)
        return f"map to {_type(entries)}" if entries else "map"
    if ":" in value.get("pattern", ""):
        return f"`{_DOTTED}`"
    bounds = [f"{sign} {value[name]:g}" for name, sign in _BOUNDS.items() if name in value]
    return " ".join([str(value.get("type", "anything")), ", ".join(bounds)]).strip()


def _default(value: Json) -> str:
    return f"`{json.dumps(value['default'])}`" if "default" in value else ""


def _meaning(value: Json) -> str:
    return str(value.get("description", "")).replace("|", "\\|").replace("\n", " ")


def _told(schema: Json) -> str:
    return str(schema.get("description", "")).replace("``", "`")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown_reference(), encoding="utf-8")
