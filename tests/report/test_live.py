"""The live view: lines that fit a terminal, plain lines in a pipe, nothing when quiet."""

from __future__ import annotations

import io
import os
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from orchestrator.executor.outcome import Finished
from orchestrator.plan.graph import Action, Graph, Step, Variant
from orchestrator.plan.secrets import Secrets
from orchestrator.report.console import console
from orchestrator.report.live import LiveView
from orchestrator.report.panel import fitted, panel
from orchestrator.report.progress import Progress
from tests.plan.variants import graph
from tests.report.given import Given
from tests.report.terminal import Terminal

MARKUP = "a[/b] [red]c"


@pytest.fixture(scope="module")
def planned() -> Graph:
    return graph()


def named(planned: Graph, name: str) -> tuple[Action, Variant]:
    """Return the first action, and its variant under another name."""
    return next(iter(planned.actions.values())), replace(planned.variants[0], name=name)


def test_plain_lines_show_what_was_written_and_no_secrets(planned: Graph) -> None:
    action, variant = named(planned, f"{MARKUP} correct-horse")
    file = io.StringIO()
    hide = Secrets({"TOKEN": "correct-horse"}).hide_text
    with LiveView(Console(file=file, width=200), hide=hide) as view:
        view.planned(planned, Given(), 2)
        view.started(action, [variant])
        view.waiting(action, MARKUP)
        view.finished(action, [variant], Finished(status="failed", seconds=1.25))
    first, second, third = file.getvalue().splitlines()

    assert first.startswith(f"… samples · {MARKUP} <env TOKEN")
    assert second == f"… samples waits: {MARKUP}"
    assert third.startswith(f"✗ samples · {MARKUP}")
    assert third.endswith(" 1.2 s")
    assert "correct-horse" not in file.getvalue()


def test_a_pipe_is_never_wrapped(planned: Graph) -> None:
    action, variant = named(planned, "x" * 500)
    file = io.StringIO()
    with LiveView(Console(file=file, width=40)) as view:
        view.planned(planned, Given(), 2)
        view.started(action, [variant])

    assert file.getvalue() == f"… samples · {'x' * 500}\n"


@pytest.mark.parametrize(("verbose", "lines"), [(False, 0), (True, 1)])
def test_what_was_cached_is_a_line_when_verbose(planned: Graph, verbose: bool, lines: int) -> None:
    action, variant = named(planned, "one")
    file = io.StringIO()
    with LiveView(Console(file=file, width=200), verbose=verbose) as view:
        view.planned(planned, Given(), 2)
        view.finished(action, [variant], Finished(status="cached"))

    assert file.getvalue() == "= samples · one cached\n" * lines


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_quiet_shows_nothing(planned: Graph, file: io.StringIO) -> None:
    action, variant = named(planned, "one")
    with LiveView(Console(file=file, force_terminal=file.isatty()), quiet=True) as view:
        view.planned(planned, Given(), 2)
        view.started(action, [variant])
        view.waiting(action, "reason")
        view.finished(action, [variant], Finished(status="failed"))

    assert file.getvalue() == ""


def test_a_line_of_a_terminal_keeps_its_end(planned: Graph) -> None:
    action, variant = named(planned, "x" * 500)
    file = Terminal()
    console = Console(file=file, width=60, force_terminal=True, color_system=None)
    with LiveView(console) as view:
        view.planned(planned, Given(), 2)
        view.started(action, [variant])
        view.finished(action, [variant], Finished(status="ran", seconds=2.0))
    (line,) = [text for text in file.getvalue().splitlines() if "✓" in text]
    shown = line[line.index("✓") :]

    assert shown.endswith("xx… 2.0 s")
    assert cell_len(shown) == 60


def test_a_long_label_loses_its_keys_then_its_end() -> None:
    label = "run lowered · calibration=minmax,calibration.count=32,exporter.opset=18"

    assert fitted(label, 80) == label
    assert fitted(label, 40) == "run lowered · minmax,32,18"
    assert fitted(label, 20) == "run lowered · minma…"


@pytest.mark.parametrize(("width", "height"), [(120, 30), (60, 12), (40, 5)])
def test_the_panel_fits(planned: Graph, width: int, height: int) -> None:
    sweep = Graph()
    ids = [sweep.add("export", {"number": number}) for number in range(60)]
    steps = [Step(role="export", stage="export", action=one, gates=0) for one in ids]
    sweep.variants.append(replace(planned.variants[0], steps=steps))
    progress = Progress(sweep, Given({"export": 20.0}), 100)
    running = list(sweep.actions.values())
    for action in running:
        progress.started(action, f"export · model=resnet50,precision=fp16,seed={action.params}")
        progress.progressed(action, 0.5, "at it " * 40)
    lines = drawn(progress, width, height)

    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width
    assert lines[-2].strip().startswith("… and ")
    assert lines[-2].strip().endswith(" more")
    assert lines[-1].startswith("  about 20 s left · 60 running · 0 to go"[: width - 1])


def test_the_panel_fits_three_lines(planned: Graph) -> None:
    progress = Progress(planned, Given(), 2)
    for action in planned.actions.values():
        progress.started(action, "one")
    lines = drawn(progress, 10, 3)

    assert len(lines) < 3
    assert max(map(cell_len, lines)) <= 10


def test_what_a_toolchain_reports_cannot_draw(planned: Graph) -> None:
    action = next(iter(planned.actions.values()))
    progress = Progress(planned, Given(), 2)
    progress.started(action, "one")
    progress.progressed(action, 0.5, "layer\n\x1b[2J7")
    row, _ = drawn(progress, 120, 30)

    assert row.rstrip().endswith("one  layer  [2J7")


def test_a_terminal_that_was_closed_does_not_hide_the_end(planned: Graph) -> None:
    ours, theirs = os.openpty()
    terminal = unbuffered(theirs)
    with terminal, LiveView(Console(file=terminal, width=80, force_terminal=True)) as view:
        view.planned(planned, Given(), 2)
        os.close(ours)
        with pytest.raises(OSError, match="Input/output"):
            terminal.write("it is gone\n")


def test_a_pipe_without_a_reader_is_said_once_and_to_the_run(
    planned: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, variant = named(planned, "one")
    read, write = os.pipe()
    os.close(read)
    with unbuffered(write) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with LiveView(console()) as view:
            view.planned(planned, Given(), 2)
            with pytest.raises(BrokenPipeError):
                view.started(action, [variant])
            view._print_totals()  # its thread would show a traceback


def test_the_panel_says_what_is_known(planned: Graph) -> None:
    first, second, third, *_ = planned.actions.values()
    seconds = {action.stage: 30.0 for action in planned.actions.values()}
    progress = Progress(planned, Given(seconds), 2)
    progress.started(first, "first")
    progress.finished(first, "ran")
    progress.finished(second, "cached")
    progress.started(third, "third · digits")
    row, totals = drawn(progress, 120, 30)
    left = len(planned.actions) - 3

    assert row.split()[:4] == ["0", "s", "of", "~30"]
    assert row.rstrip().endswith("third · digits")
    assert totals.startswith("  about ")
    assert totals.rstrip().endswith(f" min left · 1 running · {left} to go · 1 ran · 1 cached")


def test_no_time_is_promised_when_nothing_is_known(planned: Graph) -> None:
    progress = Progress(planned, Given(), 2)
    progress.started(next(iter(planned.actions.values())), "first")
    _, totals = drawn(progress, 120, 30)

    assert totals.rstrip() == f"  1 running · {len(planned.actions) - 1} to go"


def unbuffered(descriptor: int) -> io.TextIOWrapper:
    """Return a file that has nothing left to write when it is closed."""
    raw: Any = io.FileIO(descriptor, "w")
    return io.TextIOWrapper(raw, encoding="utf-8", write_through=True)


def drawn(progress: Progress, width: int, height: int) -> list[str]:
    """Return the lines of the panel as a terminal without colours shows them."""
    file = Terminal()
    console = Console(file=file, width=width, height=height, color_system=None)
    console.print(panel(progress, time.monotonic(), width=width, height=height))
    return file.getvalue().splitlines()
