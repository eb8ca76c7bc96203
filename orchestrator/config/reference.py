"""What the schema says about itself: JSON Schemas for editors and the reference of all keys."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.config.schema import Config


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of every config group, by group name."""
    return {name: _schema(name, field) for name, field in Config.model_fields.items()}


def markdown_reference() -> str:
    """Return ``docs/reference/config.md``: every key with type, default and meaning."""
    parts = [
        "# Configuration reference\n\n"
        "Generated from `orchestrator/config/schema.py` by `make reference`. The built-in options "
        "of each group are the files in `conf/GROUP/`.\n"
    ]
    for name, schema in json_schemas().items():
        parts.append(f"\n## {name}\n\n{schema.get('description', '')}\n\n")
        parts.append(_table(schema))
        for title, definition in schema.get("$defs", {}).items():
            parts.append(f"\n### {name}: {title}\n\n{definition.get('description', '')}\n\n")
            parts.append(_table(definition))
    return "".join(parts)


def _schema(name: str, field: FieldInfo) -> dict[str, Any]:
    group = field.annotation
    if not (isinstance(group, type) and issubclass(group, BaseModel)):
        raise TypeError(f"config group '{name}' has no schema class")
    schema = group.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    # Files of a group may leave keys to others (defaults lists, overrides), so none is required
    # there.
    schema.pop("required", None)
    schema.setdefault("properties", {})["defaults"] = {
        "type": "array",
        "description": "Hydra's defaults list.",
    }
    return schema


def _table(schema: dict[str, Any]) -> str:
    lines = ["| key | type | default | meaning |\n", "|---|---|---|---|\n"]
    for key, value in schema.get("properties", {}).items():
        if key == "defaults":
            continue
        default = value.get("default", PydanticUndefined)
        shown = "" if default is PydanticUndefined else f"`{json.dumps(default)}`"
        meaning = value.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(value)} | {shown} | {meaning} |\n")
    return "".join(lines)


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "enum" in value:
        return ", ".join(f"`{option}`" for option in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    for union in ("anyOf", "oneOf"):
        if union in value:
            return " or ".join(_type(option) for option in value[union])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {})) or 'anything'}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"map to {_type(value['additionalProperties'])}"
    if value.get("type") == "object" and "patternProperties" in value:
        return f"map to {_type(next(iter(value['patternProperties'].values())))}"
    return str(value.get("type", "anything"))
