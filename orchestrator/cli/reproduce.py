"""``orchestrate reproduce DIR``: build one experiment again and compare."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.reproduce import Reproduction

_INTERRUPTED = 130
_STYLES = {"differs": "bold red", "not compared": "dim"}


def main(words: Sequence[str]) -> int:
    """Reproduce; return the exit code: 1 when an action differs."""
    from orchestrator.cli.main import parse, parser

    made = parser(
        "reproduce",
        "Build the variant of an experiment directory again, from the configuration it keeps, and "
        "compare\nstage by stage: the same bytes, or the same verdict, as each stage promises.",
    )
    made.add_argument("directory", help="an experiment directory below outputs/")
    made.add_argument(
        "--clean", action="store_true", help="run everything again, in an empty temporary store"
    )
    made.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    made.add_argument("--json", action="store_true", help="print JSON, progress to stderr")
    options = parse(made, words)

    from orchestrator.report.console import console
    from orchestrator.reproduce import reproduce

    found = reproduce(
        Path(options.directory).expanduser(),
        console(stderr=True),
        clean=options.clean,
        quiet=options.quiet,
    )
    if found.interrupted:
        print("interrupted: nothing was compared", file=sys.stderr)
        return _INTERRUPTED
    if options.json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        _print(console(), found, clean=options.clean)
    return 0 if found.same else 1


def _print(console: Console, found: Reproduction, *, clean: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("result", "action", "why"):
        table.add_column(heading, overflow="fold")
    for line in found.lines:
        style = _STYLES.get(line.verdict, "green")
        table.add_row(f"[{style}]{line.verdict}[/]", escape(line.role), escape(line.text))
    console.print(table)
    counts = Counter(line.verdict for line in found.lines)
    console.print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}")
    for note in found.notes:
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    if not clean and any("from the store" in line.text for line in found.lines):
        console.print("[yellow]note[/] what the store has was not run again: --clean does that")


def _as_json(found: Reproduction) -> dict[str, object]:
    return {
        "schema": 1,
        "same": found.same,
        "actions": [vars(line) for line in found.lines],
        "notes": found.notes,
    }
