"""The generated reference and schemas are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchestrator.config.reference import json_schemas, markdown_reference
from orchestrator.config.schema import Config

DOCS = Path(__file__).parents[2] / "docs"


def test_reference_is_up_to_date() -> None:
    written = (DOCS / "reference" / "config.md").read_text(encoding="utf-8")
    assert written == markdown_reference(), "run 'make reference'"


def test_schemas_are_up_to_date() -> None:
    written = {path.stem: json.loads(path.read_text()) for path in (DOCS / "schema").glob("*.json")}
    assert written == json_schemas(), "run 'make reference'"


def test_reference_tells_of_every_group_and_kind_of_data() -> None:
    text = markdown_reference()
    headings = set(re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    assert set(Config.model_fields) <= headings
    kinds = ("generator", "npz or npy", "images", "callable")
    assert {f"model.samples, kind: {kind}" for kind in kinds} <= headings


def test_links_within_the_reference_lead_to_a_heading() -> None:
    text = markdown_reference()
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links
    assert links <= anchors


def test_defaults_and_required_keys_are_told_apart() -> None:
    rows = [line.strip("| ").split(" | ") for line in markdown_reference().splitlines()]
    defaults = {row[0].strip("`"): row[2] for row in rows if len(row) > 2}
    assert defaults["op_types"] == '`["Conv", "ConvTranspose", "MatMul", "Gemm"]`'
    assert defaults["dtype"] == "required"
