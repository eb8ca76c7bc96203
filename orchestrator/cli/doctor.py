"""``orchestrate doctor``: what is installed, what works here, and what to do about the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.doctor import Finding


def main(words: Sequence[str]) -> int:
    """Print the findings; return 1 when a needed thing is missing."""
    from orchestrator.cli.main import parse, parser

    made = parser("doctor", "What is installed, which targets work here, and what to do.")
    made.add_argument("--json", action="store_true", help="print JSON")
    options = parse(made, words)

    from dataclasses import asdict

    from orchestrator.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    return 1 if any(finding.state == "missing" for finding in findings) else 0


def _print(findings: Sequence[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from orchestrator.report.console import console

    styles = {"ok": "[green]ok[/]", "optional": "[yellow]–[/]", "missing": "[red]missing[/]"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        advice = f"\n  → {finding.advice}" if finding.advice else ""
        table.add_row(
            styles[finding.state], escape(finding.name), escape(f"{finding.text}{advice}")
        )
    console().print(table)
