"""What a user wrote is shown as it is, whatever rich would take it for."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.report.printed import print_table
from orchestrator.report.summary import Summary
from orchestrator.report.table import markdown

MARKUP = "a[/b] [red]c"


def written() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200), file


def test_the_table() -> None:
    console, file = written()
    summaries = [
        Summary(name=MARKUP, passed=True),
        Summary(name="x|y", passed=False),
        Summary(name="left", passed=False, interrupted=True),
    ]
    print_table(console, summaries)
    _, *rows = file.getvalue().splitlines()

    assert rows[0].startswith(MARKUP)
    assert [row.split()[-1] for row in rows] == ["passed", "FAILED", "interrupted"]
    assert "| x\\|y |" in markdown(summaries)
    assert markdown(summaries).endswith("| interrupted |\n")
