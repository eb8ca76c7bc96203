"""``orchestrate schema [GROUP] [--to DIR]``: JSON Schemas for editors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> int:
    """Print or write schemas; return the exit code."""
    from orchestrator.cli.main import parse, parser

    made = parser("schema", "JSON Schemas of the config groups, for completion in editors.")
    made.add_argument("group", nargs="?", help="one group (default: all)")
    made.add_argument("--to", metavar="DIR", help="write DIR/GROUP.json instead of printing")
    options = parse(made, words)

    from orchestrator.config.reference import json_schemas
    from orchestrator.errors import UsageError, nearest

    schemas = json_schemas()
    if options.group is not None:
        if options.group not in schemas:
            raise UsageError(
                f"there is no config group '{options.group}'",
                hint=nearest(options.group, schemas) or f"groups: {', '.join(schemas)}",
            )
        schemas = {options.group: schemas[options.group]}
    if options.to is None:
        print(json.dumps(schemas[options.group] if options.group else schemas, indent=2))
        return 0
    folder = Path(options.to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in schemas.items():
            text = json.dumps(schema, indent=2) + "\n"
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(
            f"cannot be written ({exc.strerror})",
            where=f"--to {options.to}",
            hint="give a directory that can be made and written",
        ) from exc
    print(f"{len(schemas)} schemas in {folder}")
    return 0
