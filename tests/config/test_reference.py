"""What the schema says about itself: JSON Schemas for editors and the reference in Markdown."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from orchestrator.config.reference import json_schemas, markdown_reference
from orchestrator.config.schema import Config
from orchestrator.locations import bundled

TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def walk(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in walk(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for item in node.values() for found in walk(item))]


@pytest.mark.parametrize("group", sorted(Config.model_fields))
def test_a_schema_is_sound(group: str) -> None:
    schema = json_schemas()[group]
    references = {node["$ref"] for node in walk(schema) if isinstance(node.get("$ref"), str)}
    types = {node["type"] for node in walk(schema) if isinstance(node.get("type"), str)}

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert types <= TYPES
    for reference in references:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


@pytest.mark.parametrize("group", sorted(set(Config.model_fields) - {"experiment"}))
def test_built_in_files_use_only_keys_of_the_schema(group: str) -> None:
    known = set(json_schemas()[group]["properties"])
    files = sorted((bundled("conf") / group).glob("*.yaml"))

    assert files
    for path in files:
        assert set(yaml.safe_load(path.read_text())) <= known


@pytest.mark.parametrize("group", sorted(Config.model_fields))
def test_the_reference_has_every_key(group: str) -> None:
    text = markdown_reference()
    section = text.partition(f"\n## {group}\n")[2].partition("\n## ")[0]

    for key in json_schemas()[group]["properties"]:
        if key != "defaults":
            assert f"| `{key}` |" in section
