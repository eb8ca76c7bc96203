"""What a user wrote is shown as it is, whatever rich would take it for; secrets are not shown."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.executor.outcome import Finished
from orchestrator.plan.graph import Action, Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.report.live import LiveView
from orchestrator.report.summary import Summary
from orchestrator.report.table import markdown, print_table
from tests.plan.variants import graph

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


def test_the_live_view() -> None:
    planned = graph()
    action: Action = next(iter(planned.actions.values()))
    (given,) = planned.variants
    variant = Variant(
        index=0, name=f"{MARKUP} correct-horse", config=given.config, overrides=given.overrides
    )
    console, file = written()
    hide = Secrets({"TOKEN": "correct-horse"}).hide_text
    with LiveView(console, hide=hide) as view:
        view.started(action, [variant])
        view.waiting(action, MARKUP)
        view.finished(action, Finished(status="failed"))
    lines = file.getvalue().splitlines()

    assert len(lines) >= 3
    assert file.getvalue().count(MARKUP) == 3
    assert "correct-horse" not in file.getvalue()
    assert "<env TOKEN" in lines[0]
